// The four charts, drawn with chart.js (a global of its own script).
import { text } from './texts.js';

const charts = {};

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function lineOptions(axes) {
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    interaction: { mode: 'index', intersect: false },
    elements: { point: { radius: 0 }, line: { borderWidth: 2 } },
    scales: { x: { ticks: { maxTicksLimit: 6, maxRotation: 0 } }, ...axes },
    plugins: { legend: { labels: { boxWidth: 12 } } },
  };
}

function line(id, datasets, axes) {
  charts[id] = new Chart(document.getElementById(id), {
    type: 'line', data: { labels: [], datasets }, options: lineOptions(axes),
  });
}

function build() {
  Chart.defaults.color = color('--quiet');
  Chart.defaults.borderColor = color('--line');
  const accent = color('--accent');
  const second = color('--good');
  const from0 = { beginAtZero: true, ticks: { maxTicksLimit: 6 } };
  const whole = { beginAtZero: true, ticks: { precision: 0, maxTicksLimit: 6 } };
  line('chart-tokens', [
    { label: text('generated'), borderColor: accent, backgroundColor: accent, data: [] },
    { label: text('prompt'), borderColor: second, backgroundColor: second, data: [] },
  ], { y: from0 });
  line('chart-load', [
    { label: text('active'), borderColor: accent, backgroundColor: accent, stepped: true, data: [] },
    { label: text('queued'), borderColor: second, backgroundColor: second, stepped: true, data: [] },
  ], { y: whole });
  line('chart-memory', [
    { label: text('memoryMib'), borderColor: accent, backgroundColor: accent, data: [] },
    { label: text('kvPercent'), borderColor: second, backgroundColor: second, yAxisID: 'percent', data: [] },
  ], { y: from0, percent: { position: 'right', min: 0, max: 100, grid: { drawOnChartArea: false } } });
  charts['chart-latency'] = new Chart(document.getElementById('chart-latency'), {
    type: 'bar',
    data: {
      labels: ['p50', 'p95', 'p99'],
      datasets: [
        { label: text('firstTokenLong'), backgroundColor: accent, data: [] },
        { label: text('wholeAnswer'), backgroundColor: second, data: [] },
      ],
    },
    options: {
      animation: false, responsive: true, maintainAspectRatio: false,
      scales: { y: { beginAtZero: true, title: { display: true, text: 's' } } },
      plugins: { legend: { labels: { boxWidth: 12 } } },
    },
  });
}

/** Draws anew, in the language and colours in force. */
export function rebuildCharts() {
  for (const id of Object.keys(charts)) {
    charts[id].destroy();
    delete charts[id];
  }
  build();
}

function ago(seconds) {
  const rounded = Math.round(seconds);
  return rounded === 0 ? '0 s' : `-${rounded} s`;
}

/** Shows GET /dashboard/data. */
export function updateCharts(data) {
  const series = data.series;
  const now = series.length ? series[series.length - 1].time : 0;
  const labels = series.map((sample) => ago(now - sample.time));
  const set = (id, ...values) => {
    charts[id].data.labels = labels;
    values.forEach((column, index) => { charts[id].data.datasets[index].data = column; });
    charts[id].update();
  };
  set('chart-tokens', series.map((s) => s.tokens_per_s), series.map((s) => s.prompt_tokens_per_s));
  set('chart-load', series.map((s) => s.active), series.map((s) => s.queued));
  set('chart-memory', series.map((s) => s.resident_bytes / 1048576),
    series.map((s) => (s.kv_pages_total ? (100 * s.kv_pages_used) / s.kv_pages_total : 0)));
  const latency = charts['chart-latency'];
  latency.data.datasets[0].data = ['p50', 'p95', 'p99'].map((p) => data.latency.first_token_s[p]);
  latency.data.datasets[1].data = ['p50', 'p95', 'p99'].map((p) => data.latency.total_s[p]);
  latency.update();
}

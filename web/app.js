// The page: asks for /dashboard/data every second and shows it.
import { rebuildCharts, updateCharts } from './charts.js';
import { startChat } from './chat.js';
import { chosenLanguage, text, useLanguage } from './texts.js';

const element = (id) => document.getElementById(id);
let latest = null;

function headers() {
  const key = sessionStorage.getItem('onggi-key');
  const common = { 'Content-Type': 'application/json' };
  return key ? { ...common, Authorization: `Bearer ${key}` } : common;
}

function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(value < 10 && unit > 0 ? 2 : 0)} ${units[unit]}`;
}

function seconds(value) {
  if (!value) return '–';
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;
}

function duration(value) {
  const total = Math.floor(value);
  const two = (number) => String(number).padStart(2, '0');
  return `${Math.floor(total / 3600)}:${two(Math.floor(total / 60) % 60)}:${two(total % 60)}`;
}

function showStatus(state) {
  element('status').dataset.state = state;
  element('status').textContent = text(`state_${state}`);
}

function showFigures(data) {
  const engine = data.engine;
  const last = data.series[data.series.length - 1];
  element('figure-speed').textContent = last ? last.tokens_per_s.toFixed(1) : '–';
  element('figure-first').textContent = seconds(data.latency.first_token_s.p50);
  element('figure-active').textContent = engine ? `${engine.active} / ${engine.queued}` : '–';
  element('figure-kv').textContent = engine
    ? `${((100 * engine.kv_pages_used) / engine.kv_pages_total).toFixed(0)} %` : '–';
  element('figure-memory').textContent = bytes(data.resident_bytes);
  element('figure-requests').textContent = `${data.requests} / ${data.errors}`;
}

function showModel(data) {
  const { model, engine } = data;
  element('model-name').textContent = model ? model.name : '';
  element('think-label').hidden = !(model && model.thinking);
  const rows = [];
  if (model) {
    rows.push([text('name'), model.names.join(', ')], [text('family'), `${model.family} · ${model.format}`],
      [text('parameters'), model.parameters], [text('quantization'), model.quantization],
      [text('size'), bytes(model.size_bytes)],
      [text('context'), `${model.context_length.toLocaleString()} ${text('tokens')}`]);
  }
  if (engine) {
    rows.push([text('batch'), String(engine.max_batch)],
      [text('totals'), `${engine.prompt_tokens.toLocaleString()} → ${engine.generated_tokens.toLocaleString()}`
        + ` (${engine.cached_tokens.toLocaleString()} ${text('cached')})`]);
  }
  rows.push([text('ports'), `${data.port}, ${data.ollama_port} (Ollama)`], [text('uptime'), duration(data.uptime_s)],
    [text('version'), data.version]);
  element('model').replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement('dt');
    const description = document.createElement('dd');
    term.textContent = name;
    description.textContent = value;
    return [term, description];
  }));
}

function cell(value, className) {
  const td = document.createElement('td');
  td.textContent = value;
  if (className) td.className = className;
  return td;
}

function showRecent(data) {
  element('recent-empty').hidden = data.recent.length > 0;
  element('recent').replaceChildren(...data.recent.map((request) => {
    const row = document.createElement('tr');
    row.title = request.id;
    row.append(
      cell(new Date(request.time).toLocaleTimeString(document.documentElement.lang)), cell(request.api),
      cell(request.status, request.status >= 400 ? 'bad' : ''), cell(request.finish || '–'),
      cell(request.prompt_tokens, 'number'), cell(request.generated_tokens, 'number'),
      cell(seconds(request.first_token_s), 'number'), cell(seconds(request.total_s), 'number'),
      cell(request.tokens_per_s ? request.tokens_per_s.toFixed(1) : '–', 'number'));
    return row;
  }));
}

function show(data) {
  latest = data;
  showStatus(data.status);
  showFigures(data);
  showModel(data);
  showRecent(data);
  updateCharts(data);
}

function notice(message) {
  element('notice').hidden = !message;
  element('notice').textContent = message;
}

async function refresh() {
  try {
    const response = await fetch('/dashboard/data', { headers: headers(), cache: 'no-store' });
    if (response.status === 401) {
      element('key-form').hidden = false;
      notice(sessionStorage.getItem('onggi-key') ? text('keyWrong') : '');
    } else {
      element('key-form').hidden = true;
      notice('');
      show(await response.json());
    }
  } catch (error) {
    showStatus('offline');
    notice(text('offline'));
  }
  setTimeout(refresh, 1000);
}

function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function redraw() {
  rebuildCharts();
  if (latest) show(latest);
}

function start() {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  useTheme(localStorage.getItem('onggi-theme') ?? (dark ? 'dark' : 'light'));
  useLanguage(chosenLanguage());
  element('language').value = document.documentElement.lang;
  rebuildCharts();
  element('language').addEventListener('change', (event) => {
    localStorage.setItem('onggi-language', event.target.value);
    useLanguage(event.target.value);
    redraw();
  });
  element('theme').addEventListener('click', () => {
    const theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
    localStorage.setItem('onggi-theme', theme);
    useTheme(theme);
    redraw();
  });
  element('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    sessionStorage.setItem('onggi-key', element('key').value);
  });
  startChat(headers);
  refresh();
}

start();

// The dashboard in a real Chromium: node tests/serve/dashboard_test.mjs path/to/onggi [screenshot folder]
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import http from 'node:http';
import { load, skip, startService } from './service.mjs';

const { chromium } = load('playwright-core');
const browserPath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
if (!browserPath) skip('there is no Chromium; install the package chromium');

const pictures = process.argv[3];
const service = await startService();
const browser = await chromium.launch({
  executablePath: browserPath,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-dev-shm-usage'],
});

/**
 * Passes everything on to the service but the end of an answer, which it keeps until the client goes away: an
 * answer that is as long as a test needs. {url, clientLeft: a promise, close()}.
 */
async function holdingAnswers() {
  let left;
  const clientLeft = new Promise((resolve) => { left = resolve; });
  const proxy = http.createServer((request, response) => {
    const { host, ...headers } = request.headers;
    const onward = http.request(new URL(request.url, service.url), { method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      if (request.url !== '/chat') {
        answer.pipe(response);
        return;
      }
      answer.once('data', (piece) => response.write(piece));
      response.on('close', () => { onward.destroy(); left(); });
    });
    onward.on('error', () => response.destroy());
    request.pipe(onward);
  });
  await new Promise((resolve) => { proxy.listen(0, '127.0.0.1', resolve); });
  return { url: `http://127.0.0.1:${proxy.address().port}`, clientLeft, close() { proxy.close(); proxy.closeAllConnections(); } };
}

/** A page in a language, and all that went wrong on it. */
async function open(locale, options = {}, url = service.url) {
  const context = await browser.newContext({ locale, viewport: { width: 1360, height: 1150 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30000);
  const problems = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => { if (message.type() === 'error') problems.push(message.text()); });
  // Offline by design: nothing may come from elsewhere.
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) problems.push(`outside: ${request.url()}`);
  });
  await page.goto(`${url}/`);
  return { page, problems };
}

const picture = async (page, name) => {
  if (pictures) await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
};

const tests = {
  async 'shows the model and streams an answer'() {
    const { page, problems } = await open('en-GB');
    await page.waitForFunction(() => document.getElementById('status').textContent === 'running');
    assert.equal(await page.textContent('#model-name'), 'mini');
    await page.fill('#message', 'What is git?');
    await page.press('#message', 'Enter');
    await page.waitForSelector('.message.assistant .facts:not(:empty)');
    assert.equal(await page.textContent('.message.user'), 'What is git?');
    assert.match(await page.textContent('.message.assistant .facts'), /\d+ tokens · [\d.]+ tokens\/s/);
    assert.equal(await page.isDisabled('#send'), false);
    // The answer is in the table and in the charts.
    await page.waitForSelector('#recent tr');
    const cells = await page.$$eval('#recent tr:first-child td', (tds) => tds.map((td) => td.textContent));
    assert.equal(cells[1], 'chat');
    assert.equal(cells[2], '200');
    await page.waitForFunction(() => Chart.getChart('chart-tokens').data.datasets[0].data.some((value) => value > 0));
    const drawn = await page.$$eval('canvas', (canvases) => canvases.map((canvas) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return data.some((value) => value !== 0);
    }));
    assert.deepEqual(drawn, [true, true, true, true]);
    await picture(page, 'dashboard-en-light');
    assert.deepEqual(problems, []);
  },
  async 'speaks Korean where the browser does, and switches'() {
    const { page, problems } = await open('ko-KR', { colorScheme: 'dark' });
    await page.waitForFunction(() => document.getElementById('status').textContent === '실행 중');
    assert.equal(await page.getAttribute('html', 'lang'), 'ko');
    assert.equal(await page.getAttribute('html', 'data-theme'), 'dark');
    await page.fill('#message', '파이썬 리스트를 설명해 주세요.');
    await page.click('#send');
    await page.waitForSelector('.message.assistant .facts:not(:empty)');
    await picture(page, 'dashboard-ko-dark');
    await page.selectOption('#language', 'en');
    assert.equal(await page.textContent('#send'), 'Send');
    await page.click('#theme');
    assert.equal(await page.getAttribute('html', 'data-theme'), 'light');
    await page.reload();
    await page.waitForFunction(() => document.getElementById('status').textContent === 'running');
    assert.deepEqual(problems, []);
  },
  async 'stops an answer'() {
    const held = await holdingAnswers();
    try {
      const { page, problems } = await open('en-GB', {}, held.url);
      await page.fill('#message', 'Tell me a very long story.');
      await page.click('#send');
      await page.click('#stop');
      await page.waitForSelector('#stop', { state: 'hidden' });
      await held.clientLeft;
      assert.equal(await page.isDisabled('#send'), false);
      assert.deepEqual(problems, []);
      await page.close();
    } finally {
      held.close();
    }
  },
  async 'fits a phone'() {
    const { page, problems } = await open('en-GB', { viewport: { width: 390, height: 800 } });
    await page.waitForSelector('#recent tr');
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(overflow, 0);
    await picture(page, 'dashboard-phone');
    assert.deepEqual(problems, []);
  },
  async 'asks for the key where there is one'() {
    const locked = await startService('--api-key', 'secret');
    try {
      const page = await (await browser.newContext({ locale: 'en-GB' })).newPage();
      await page.goto(`${locked.url}/dashboard`);
      await page.waitForSelector('#key-form', { state: 'visible' });
      await page.fill('#key', 'secret');
      await page.press('#key', 'Enter');
      await page.waitForFunction(() => document.getElementById('status').textContent === 'running');
      await page.fill('#message', 'hi');
      await page.press('#message', 'Enter');
      await page.waitForSelector('.message.assistant .facts:not(:empty):not(.bad)');
    } finally {
      await locked.stop();
    }
  },
  async 'says that the service is gone'() {
    const { page } = await open('en-GB');
    await page.waitForFunction(() => document.getElementById('status').textContent === 'running');
    await service.stop();
    await page.waitForFunction(() => document.getElementById('status').textContent === 'offline');
  },
};

let failures = 0;
for (const [name, run] of Object.entries(tests)) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
await browser.close();
await service.stop();
process.exit(failures === 0 ? 0 : 1);

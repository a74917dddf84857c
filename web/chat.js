// The chat box: POST /chat with a stream of server-sent events.
import { text } from './texts.js';

const history = [];
let running = null;

function bubble(role) {
  const element = document.createElement('div');
  element.className = `message ${role}`;
  const box = document.getElementById('messages');
  box.append(element);
  box.scrollTop = box.scrollHeight;
  return element;
}

function showRunning(isRunning) {
  document.getElementById('send').disabled = isRunning;
  document.getElementById('stop').hidden = !isRunning;
}

/** The data fields of a stream of server-sent events, one by one. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    for (let end = buffer.indexOf('\n\n'); end >= 0; end = buffer.indexOf('\n\n')) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (event.startsWith('data: ')) yield event.slice('data: '.length);
    }
  }
}

function answerBubble() {
  const element = bubble('assistant');
  const details = document.createElement('details');
  details.hidden = true;
  const summary = document.createElement('summary');
  summary.textContent = text('thinking');
  const reasoning = document.createElement('div');
  details.append(summary, reasoning);
  const words = document.createElement('span');
  const facts = document.createElement('span');
  facts.className = 'facts';
  element.append(details, words, facts);
  return { details, reasoning, words, facts };
}

function show(answer, event) {
  if (event.error) throw new Error(event.error);
  if (event.thinking) {
    answer.details.hidden = false;
    answer.reasoning.textContent += event.thinking;
  }
  answer.words.textContent += event.response ?? '';
  if (event.done) {
    answer.facts.textContent =
      `${event.usage.completion_tokens} ${text('tokens')} · ${event.tokens_per_s.toFixed(1)} ${text('tokensPerSecond')}`;
  }
  const box = document.getElementById('messages');
  box.scrollTop = box.scrollHeight;
}

async function ask(message, headers) {
  bubble('user').textContent = message;
  const answer = answerBubble();
  running = new AbortController();
  showRunning(true);
  try {
    const body = { message, history, stream: true };
    const think = document.getElementById('think');
    if (!document.getElementById('think-label').hidden && think.checked) body.think = true;
    const response = await fetch('/chat', {
      method: 'POST', headers, body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error);
    for await (const data of events(response)) if (data !== '[DONE]') show(answer, JSON.parse(data));
    history.push({ role: 'user', content: message }, { role: 'assistant', content: answer.words.textContent });
  } catch (error) {
    if (error.name !== 'AbortError') {
      answer.facts.classList.add('bad');
      answer.facts.textContent = `${text('failed')}: ${error.message}`;
    }
  } finally {
    running = null;
    showRunning(false);
  }
}

/** headers(): the request headers, with the API key where there is one. */
export function startChat(headers) {
  const form = document.getElementById('chat-form');
  const box = document.getElementById('message');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const message = box.value.trim();
    if (!message || running) return;
    box.value = '';
    ask(message, headers());
  });
  box.addEventListener('keydown', (event) => {
    // Enter also ends the composition of a Korean syllable; only the one after it sends.
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  document.getElementById('stop').addEventListener('click', () => running?.abort());
  document.getElementById('clear').addEventListener('click', () => {
    running?.abort();
    history.length = 0;
    document.getElementById('messages').replaceChildren();
  });
}

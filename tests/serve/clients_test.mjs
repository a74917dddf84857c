// The official clients against the service: node tests/serve/clients_test.mjs path/to/onggi
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { load, root, startService } from './service.mjs';

const OpenAI = load('openai').default;
const { Ollama } = load('ollama');
const Anthropic = load('@anthropic-ai/sdk').default;

const service = await startService('--api-key', 'secret', '--max-batch', '4');
const openai = new OpenAI({ baseURL: `${service.url}/v1`, apiKey: 'secret', maxRetries: 0 });
const ollama = new Ollama({ host: service.ollamaUrl, headers: { Authorization: 'Bearer secret' } });
const anthropic = new Anthropic({ baseURL: service.url, apiKey: 'secret', maxRetries: 0 });
const messages = [{ role: 'user', content: '안녕하세요' }];

async function becomesIdle() {
  for (let i = 0; i < 100; i += 1) {
    const health = await (await fetch(`${service.url}/health`)).json();
    if (health.active === 0) return;
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
  assert.fail('the answer goes on without a client');
}

const tests = {
  async 'openai: models'() {
    const ids = [];
    for await (const model of openai.models.list()) ids.push(model.id);
    assert.deepEqual(ids, ['mini', 'onggi-mini']);
    assert.equal((await openai.models.retrieve('mini')).object, 'model');
  },
  async 'openai: chat, whole and streamed, say the same'() {
    const whole = await openai.chat.completions.create({ model: 'mini', messages, temperature: 0, max_tokens: 20 });
    const stream = await openai.chat.completions.create({
      model: 'mini', messages, temperature: 0, max_tokens: 20, stream: true, stream_options: { include_usage: true },
    });
    let text = '';
    let usage = null;
    let finish = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(finish, whole.choices[0].finish_reason);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    assert.equal(usage.prompt_tokens, whole.usage.prompt_tokens);
  },
  async 'openai: the streaming helper accumulates'() {
    const runner = openai.chat.completions.stream({ model: 'mini', messages, temperature: 0, max_tokens: 8 });
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.role, 'assistant');
    assert.ok(final.choices[0].message.content.length > 0);
  },
  async 'openai: n, logprobs, seed'() {
    const request = { model: 'mini', messages, n: 2, seed: 3, temperature: 1, max_tokens: 5, logprobs: true, top_logprobs: 2 };
    const first = await openai.chat.completions.create(request);
    const second = await openai.chat.completions.create(request);
    assert.equal(first.choices.length, 2);
    assert.deepEqual(first.choices, second.choices);
    assert.equal(first.choices[0].logprobs.content[0].top_logprobs.length, 2);
  },
  async 'openai: a JSON schema is followed'() {
    const schema = { type: 'object', properties: { yes: { type: 'boolean' } }, required: ['yes'], additionalProperties: false };
    const answer = await openai.chat.completions.create({
      model: 'mini', messages, max_tokens: 50,
      response_format: { type: 'json_schema', json_schema: { name: 's', schema, strict: true } },
    });
    assert.equal(typeof JSON.parse(answer.choices[0].message.content).yes, 'boolean');
  },
  async 'openai: completions'() {
    const answer = await openai.completions.create({ model: 'mini', prompt: 'git commit', max_tokens: 5, temperature: 0, logprobs: 1 });
    assert.equal(answer.object, 'text_completion');
    assert.ok(answer.choices[0].logprobs.tokens.length > 0);
  },
  async 'openai: errors are the classes that programs catch'() {
    const ask = (extra) => openai.chat.completions.create({ model: 'mini', messages, ...extra });
    await assert.rejects(ask({ model: 'gpt-4' }), OpenAI.NotFoundError);
    await assert.rejects(ask({ temperature: 'hot' }), (error) => error instanceof OpenAI.BadRequestError
      && error.param === 'temperature');
    await assert.rejects(ask({ messages: [{ role: 'user', content: 'word '.repeat(5000) }] }), OpenAI.BadRequestError);
    const stranger = new OpenAI({ baseURL: `${service.url}/v1`, apiKey: 'wrong', maxRetries: 0 });
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
    await assert.rejects(ask({ tools: [{ type: 'function', function: { name: 'f', parameters: {} } }] }),
      /does not support tools/);
  },
  async 'openai: an aborted stream frees its place'() {
    const stream = await openai.completions.create({ model: 'mini', prompt: 'a', max_tokens: 2000, temperature: 2, stream: true });
    for await (const chunk of stream) {
      assert.ok(chunk);
      break;  // closes the connection
    }
    await becomesIdle();
  },
  async 'ollama: version, list, ps, show'() {
    assert.match((await ollama.version()).version, /^\d+\.\d+\.\d+$/);
    assert.deepEqual((await ollama.list()).models.map((model) => model.name), ['mini:latest', 'onggi-mini:latest']);
    assert.equal((await ollama.ps()).models[0].name, 'mini:latest');
    const show = await ollama.show({ model: 'mini' });
    assert.ok(show.capabilities.includes('completion'));
    assert.equal(show.model_info['qwen3.context_length'], 2048);
  },
  async 'ollama: chat and generate, whole and streamed'() {
    const options = { temperature: 0, num_predict: 20 };
    const whole = await ollama.chat({ model: 'mini', messages, options });
    let text = '';
    let last = null;
    for await (const part of await ollama.chat({ model: 'mini', messages, options, stream: true })) {
      text += part.message.content;
      last = part;
    }
    assert.equal(text, whole.message.content);
    assert.equal(last.done, true);
    assert.equal(last.eval_count, whole.eval_count);
    const generated = await ollama.generate({ model: 'mini', prompt: '안녕하세요', options });
    assert.equal(generated.response, whole.message.content);
  },
  async 'ollama: format, pull, unload, errors'() {
    const answer = await ollama.chat({
      model: 'mini', messages, format: { type: 'object', properties: { n: { enum: [1, 2] } }, required: ['n'] },
    });
    assert.ok([1, 2].includes(JSON.parse(answer.message.content).n));
    assert.equal((await ollama.pull({ model: 'mini' })).status, 'success');
    assert.equal((await ollama.generate({ model: 'mini', prompt: '', keep_alive: 0 })).done_reason, 'unload');
    await assert.rejects(ollama.chat({ model: 'llama3', messages }), /not found, try pulling it first/);
  },
  async 'ollama and openai: embeddings'() {
    const ollamas = await ollama.embed({ model: 'mini', input: ['안녕하세요', 'hello'] });
    // The client asks for base64 and gives numbers.
    const openais = await openai.embeddings.create({ model: 'mini', input: ['안녕하세요', 'hello'] });
    assert.equal(openais.usage.prompt_tokens, ollamas.prompt_eval_count);
    for (const [i, { embedding }] of openais.data.entries()) {
      assert.equal(embedding.length, ollamas.embeddings[i].length);
      const cosine = embedding.reduce((sum, value, k) => sum + value * ollamas.embeddings[i][k], 0);
      assert.ok(Math.abs(cosine - 1) < 1e-3, `${cosine}`);
    }
    await assert.rejects(ollama.delete({ model: 'llama3' }), /not found/);
    await assert.rejects(ollama.copy({ source: 'mini', destination: 'b' }), /serves one model/);
  },
  async 'anthropic: messages, whole and streamed, say what the others say'() {
    const request = { model: 'mini', max_tokens: 20, temperature: 0, messages };
    const whole = await anthropic.messages.create(request);
    const openaiAnswer = await openai.chat.completions.create({ model: 'mini', messages, temperature: 0, max_tokens: 20 });
    assert.equal(whole.content[0].text, openaiAnswer.choices[0].message.content);
    assert.equal(whole.usage.output_tokens, openaiAnswer.usage.completion_tokens);
    const stream = anthropic.messages.stream(request);
    let text = '';
    stream.on('text', (piece) => { text += piece; });
    const final = await stream.finalMessage();
    assert.equal(text, whole.content[0].text);
    assert.deepEqual(final.content, whole.content);
    assert.equal(final.stop_reason, whole.stop_reason);
    assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  },
  async 'anthropic: system, stop sequences, the beginning of the answer, counting'() {
    const system = [{ type: 'text', text: '짧게 답하세요.' }];
    const whole = await anthropic.messages.create({ model: 'mini', max_tokens: 20, temperature: 0, system, messages });
    const stop = whole.content[0].text.slice(3, 5);
    const stopped = await anthropic.messages.create({
      model: 'mini', max_tokens: 20, temperature: 0, system, messages, stop_sequences: [stop],
    });
    assert.equal(stopped.stop_reason, 'stop_sequence');
    assert.equal(stopped.stop_sequence, stop);
    assert.equal(stopped.content[0].text, whole.content[0].text.slice(0, whole.content[0].text.indexOf(stop)));
    const plain = await anthropic.messages.countTokens({ model: 'mini', messages });
    const longer = await anthropic.messages.countTokens({ model: 'mini', messages, system });
    assert.ok(longer.input_tokens > plain.input_tokens);
    const rest = await anthropic.messages.create({
      model: 'mini', max_tokens: 5, messages: [...messages, { role: 'assistant', content: '안녕' }],
    });
    assert.equal(rest.role, 'assistant');
  },
  async 'anthropic: errors are the classes that programs catch'() {
    const ask = (extra) => anthropic.messages.create({ model: 'mini', max_tokens: 5, messages, ...extra });
    await assert.rejects(ask({ model: 'claude-opus-4' }), Anthropic.NotFoundError);
    await assert.rejects(ask({ messages: [] }), (error) => error instanceof Anthropic.BadRequestError
      && error.error.error.type === 'invalid_request_error');
    await assert.rejects(ask({ tools: [{ name: 'f', input_schema: { type: 'object' } }] }), /does not support tools/);
    const stranger = new Anthropic({ baseURL: service.url, apiKey: 'wrong', maxRetries: 0 });
    await assert.rejects(stranger.messages.create({ model: 'mini', max_tokens: 5, messages }), Anthropic.AuthenticationError);
  },
  async 'anthropic: an aborted stream frees its place'() {
    const stream = anthropic.messages.stream({ model: 'mini', max_tokens: 1500, temperature: 2, messages });
    await new Promise((resolve) => { stream.once('text', resolve); stream.once('end', resolve); });
    stream.abort();
    await stream.done().catch(() => {});
    await becomesIdle();
  },
  async 'onggi chat --url: asks the service and remembers'() {
    const chat = spawnSync(process.argv[2], ['--lang', 'en', 'chat', '--url', service.url, '--api-key', 'secret',
      '--temperature', '0', '--max-tokens', '20'], { cwd: root, input: '안녕하세요\n/reset\n안녕하세요\n', encoding: 'utf8' });
    assert.equal(chat.status, 0, chat.stderr);
    const answer = (await ollama.chat({ model: 'mini', messages, options: { temperature: 0, num_predict: 20 } })).message.content;
    assert.equal(chat.stdout.split(answer).length, 3, chat.stdout);
    const refused = spawnSync(process.argv[2], ['--lang', 'en', 'chat', '--url', service.url], { cwd: root, input: 'x\n', encoding: 'utf8' });
    assert.equal(refused.status, 2);
    assert.match(refused.stderr, /needs an API key/);
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
const code = await service.stop();
if (code !== 0) {
  failures += 1;
  console.log(`FAIL  onggi serve ended with ${code} after SIGTERM`);
}
process.exit(failures === 0 ? 0 : 1);

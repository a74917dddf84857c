// Runs `onggi serve` for tests, and finds the packages that fetch_clients.sh installs.
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../', import.meta.url));

// CTest counts this exit code as "skipped".
const kSkipped = 77;

export function skip(reason) {
  console.log(`skipped: ${reason}`);
  process.exit(kSkipped);
}

/** A package of build/npm/clients; ends the test as skipped where it is not installed. */
export function load(name) {
  try {
    return createRequire(`${root}build/npm/clients/package.json`)(name);
  } catch (error) {
    return skip(`the npm package ${name} is not installed; run tests/serve/fetch_clients.sh (${error.code})`);
  }
}

/** Starts the program on free ports with the embedded model: {url, ollamaUrl, stop()}. */
export async function startService(...extra) {
  const program = process.argv[2];
  if (!program) throw new Error('usage: node TEST.mjs path/to/onggi');
  const child = spawn(program, ['--lang', 'en', 'serve', '--model', 'models/onggi-mini', '--name', 'mini', '--port', '0',
    '--ollama-port', '0', '--grace', '5', ...extra], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const ended = new Promise((resolve) => { child.on('exit', (code) => resolve(code)); });
  const ready = new Promise((resolve, reject) => {
    const read = (bytes) => {
      output += bytes;
      if (output.includes('Ctrl-C stops it.')) resolve();
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    ended.then((code) => reject(new Error(`onggi serve ended with ${code}:\n${output}`)));
  });
  await ready;
  return {
    url: /(http:\S+)\/chat\s/.exec(output)[1],
    ollamaUrl: /(http:\S+)\/api\/chat\s/.exec(output)[1],
    async stop() {
      child.kill('SIGTERM');
      return ended;
    },
  };
}

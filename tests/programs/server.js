// An HTTP server with its state here and in a worker thread; hot code, timers, garbage.
const http = require('http');
const { Worker } = require('worker_threads');
const worker = new Worker(`
  const { parentPort } = require('worker_threads');
  let mine = 0;
  parentPort.on('message', (m) => { if (m !== null) mine = m; parentPort.postMessage(mine); });
`, { eval: true });
let state = 0, ticks = 0, garbage = [];
function hot(n) { let sum = 0; for (let i = 0; i < n; i++) sum = (sum * 31 + i) | 0; return sum; }
const known = hot(100000);
setInterval(() => {
  ticks++;
  garbage.push(new Array(1000).fill(ticks));
  if (garbage.length > 100) garbage = [];
  if (hot(100000) !== known) process.abort();
}, 20);
const waiting = [];
worker.on('message', (n) => waiting.shift()(n));
http.createServer((request, response) => {
  const set = request.url.match(/^\/set\/(\d+)/);
  if (set) state = Number(set[1]);
  waiting.push((said) => response.end(`state ${state} worker ${said}\n`));
  worker.postMessage(set ? state : null);
}).listen(Number(process.argv[2]), '127.0.0.1');

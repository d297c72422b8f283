// node score.cjs MODEL.cjs ROWS.json: what JavaScript code makes of every row, as JSON.
const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

const [model, rowsFile] = process.argv.slice(2);
const rows = JSON.parse(readFileSync(rowsFile, "utf8"));

function fastest(work, inputs) {
  const times = inputs.map((input) => {
    const begin = performance.now();
    work(input);
    return performance.now() - begin;
  });
  return Math.min(...times);
}

let score;
const load = fastest(() => {
  delete require.cache[resolve(model)];
  score = require(resolve(model));
}, [1, 2, 3]);
const scores = rows.map((row) => score(row)[1]);
const alone = fastest(score, rows.slice(0, 200));
const times = { "load ms": load.toFixed(1), "latency µs a row": (1e3 * alone).toFixed(1) };
console.log(JSON.stringify({ scores, ...times }));

// node score.mjs MODEL.onnx ROWS.json: the score of every row, as JSON.
import { readFile } from "node:fs/promises";
import ort from "onnxruntime-node";

const [model, rowsFile] = process.argv.slice(2);
const rows = JSON.parse(await readFile(rowsFile, "utf8"));

let session;
async function open() {
  session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1 });
}

async function score(rows) {
  const values = Float32Array.from(rows.flat());
  const features = new ort.Tensor("float32", values, [rows.length, rows[0].length]);
  const { probabilities } = await session.run({ features }, ["probabilities"]);
  return rows.map((_, row) => probabilities.data[2 * row + 1]);
}

async function fastest(work, inputs) {
  let best = Infinity;
  for (const input of inputs) {
    const begin = performance.now();
    await work(input);
    best = Math.min(best, performance.now() - begin);
  }
  return best;
}

const load = await fastest(open, [1, 2, 3]);
const scores = await score(rows);
const alone = await fastest((row) => score([row]), rows.slice(0, 200));
const times = { "load ms": load.toFixed(1), "latency µs a row": (1e3 * alone).toFixed(1) };
console.log(JSON.stringify({ scores, ...times }));

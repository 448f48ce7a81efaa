// Prints a table of the files of a folder: raw, gzip, brotli.
import { readdirSync, readFileSync } from 'node:fs';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const folder = process.argv[2];
const brotli = { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } };
const rows = readdirSync(folder)
  .filter((name) => !name.startsWith('.'))
  .map((name) => [name, readFileSync(`${folder}/${name}`)])
  .map(([name, bytes]) => [name, bytes.length, gzipSync(bytes, { level: 9 }).length, brotliCompressSync(bytes, brotli).length]);
for (const row of [['bytes', 'raw', 'gzip', 'brotli'], ...rows]) {
  console.log(row.map((cell, column) => (column ? String(cell).padStart(8) : cell.padEnd(20))).join(''));
}

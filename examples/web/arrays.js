// Named arrays in one binary file, and where each of them lies in it.

const KINDS = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array, int64: BigInt64Array };

/** What the server has of a file; an Error that names it where it has none. */
export async function got(file) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: ${answer.status} ${answer.statusText}`);
  return answer;
}

/** {name: {type, dims, data}} of {file, arrays: {name: {type, dims, offset}}}. */
export async function readArrays({ file, arrays }) {
  const bytes = await (await got(file)).arrayBuffer();
  return Object.fromEntries(Object.entries(arrays).map(([name, { type, dims, offset }]) => {
    const count = dims.reduce((product, size) => product * size, 1);
    return [name, { type, dims, data: new KINDS[type](bytes, offset, count) }];
  }));
}

// Validates WGSL with Tint, through Dawn's null backend: no GPU, no driver.
//
// Standard input   JSON: [{ "name": string, "text": string }]
// Standard output  JSON: { "tint": string, "errors": [{ "name": string, "message": string }] }
//
// Argument 1 is the folder whose node_modules holds the package `webgpu`. Making a module runs Tint's parser, resolver and
// uniformity analysis. No pipeline is made: the null adapter has WebGPU's base limits only, and the library checks limits
// against the adapter that is there.

import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { resolve } from 'node:path';

const require = createRequire(resolve(process.argv[2], 'package.json'));
const { create, globals } = await import(pathToFileURL(require.resolve('webgpu')));
const { version } = require('webgpu/package.json');
Object.assign(globalThis, globals);

// Kept alive by name: once collected, it takes the device with it, and the process.
globalThis.gpu = create(['backend=null']);
const adapter = await globalThis.gpu.requestAdapter();
const wanted = ['shader-f16', 'subgroups'];
const device = await adapter.requestDevice({
  requiredFeatures: wanted.filter((feature) => adapter.features.has(feature)),
});

const errors = [];
for (const { name, text } of JSON.parse(readFileSync(0, 'utf8'))) {
  // Without a scope, Dawn prints each error as uncaptured.
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ label: name, code: text });
  const failures = (await module.getCompilationInfo()).messages.filter(({ type }) => type === 'error');
  const scope = await device.popErrorScope();
  for (const { lineNum, linePos, message } of failures) {
    errors.push({ name, message: `${lineNum}:${linePos}: ${message}` });
  }
  if (scope && failures.length === 0) {
    errors.push({ name, message: scope.message });
  }
}
process.stdout.write(JSON.stringify({ tint: version, errors }), () => process.exit(0));

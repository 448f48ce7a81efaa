import { svelte } from '@sveltejs/vite-plugin-svelte';
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';
import { recordedContract } from './dev/contract.ts';

export default defineConfig({
  plugins: [svelte(), flags(), recordedContract()],
  build: {
    target: 'es2022',
    // The page is served under `default-src 'self'`, which forbids data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  test: { include: ['src/**/*.test.ts'] },
});

// Countries' flags at `/flags/DE.svg`, one small file each. Emoji are no choice: Windows draws none for flags.
function flags(): Plugin {
  const folder = join(dirname(createRequire(import.meta.url).resolve('country-flag-icons/package.json')), '3x2');
  const read = (name: string) => readFileSync(join(folder, name), 'utf8');
  return {
    name: 'flags',
    configureServer(server) {
      server.middlewares.use('/flags', (request, response, next) => {
        const name = /^\/([A-Z]{2}\.svg)$/.exec(request.url ?? '')?.[1];
        if (name === undefined || !readdirSync(folder).includes(name)) return next();
        response.setHeader('content-type', 'image/svg+xml');
        response.end(read(name));
      });
    },
    generateBundle() {
      // Codes with a hyphen are regions of a country, which no visit names.
      for (const name of readdirSync(folder).filter((name) => /^[A-Z]{2}\.svg$/.test(name))) {
        this.emitFile({ type: 'asset', fileName: `flags/${name}`, source: read(name) });
      }
    },
  };
}

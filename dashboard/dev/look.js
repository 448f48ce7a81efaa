// Photographs the built page in the states that matter, over the recorded contract: `npm run build && npm run look`.
// CHROMIUM names the browser (default /usr/bin/chromium), the first argument the folder (default /tmp/dashboard-look).

import { mkdirSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { preview } from 'vite';

const folder = process.argv[2] ?? '/tmp/dashboard-look';
const arguments_ = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const DESKTOP = { width: 1440, height: 900 };
const MOBILE = { width: 390, height: 844 };

/** @type {{ name: string, path: string, viewport?: typeof DESKTOP, dark?: boolean, signedOut?: boolean, act?: (page: import('playwright-core').Page) => Promise<void> }[]} */
const shots = [
  { name: 'today', path: '/?site=shop.example', act: (page) => page.mouse.move(520, 400) },
  { name: 'today-dark', path: '/?site=shop.example', dark: true },
  { name: 'today-mobile', path: '/?site=shop.example', viewport: MOBILE },
  { name: 'month-filtered', path: '/?site=shop.example&period=30d&country=DE&source=Google&metric=bounce_rate' },
  { name: 'raw-none', path: '/?site=docs.example&period=30d&country=DE' },
  { name: 'year-dark', path: '/?site=shop.example&period=12mo&metric=pageviews', dark: true, act: (page) => page.locator('.chart').focus().then(() => page.keyboard.press('ArrowLeft')) },
  { name: 'custom-open', path: '/?site=shop.example&period=7d', act: (page) => page.getByRole('button', { name: 'Custom' }).click() },
  { name: 'campaigns-more', path: '/?site=shop.example&period=7d', act: async (page) => {
    await page.getByRole('tab', { name: 'Campaigns' }).click();
    await page.getByRole('button', { name: 'Show more' }).first().click();
  } },
  { name: 'whole', path: '/?site=docs.example&period=7d', dark: true },
  { name: 'empty', path: '/?site=empty.example&period=7d' },
  { name: 'fresh', path: '/?site=fresh.example' },
  { name: 'fresh-mobile-dark', path: '/?site=fresh.example', viewport: MOBILE, dark: true },
  { name: 'narrow', path: '/?site=shop.example&period=7d&device=Mobile', viewport: { width: 380, height: 800 } },
  { name: 'signed-out', path: '/', signedOut: true },
];

mkdirSync(folder, { recursive: true });
const server = await preview({ preview: { port: 0, host: '127.0.0.1' }, logLevel: 'error' });
const origin = `http://127.0.0.1:${server.httpServer.address().port}`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: arguments_ });
const complaints = [];
try {
  for (const { name, path, viewport = DESKTOP, dark = false, signedOut = false, act } of shots) {
    const context = await browser.newContext({ viewport, colorScheme: dark ? 'dark' : 'light', locale: 'en-GB' });
    const page = await context.newPage();
    let queries = 0;
    page.on('request', (request) => (queries += request.url().endsWith('/query') ? 1 : 0));
    page.on('pageerror', (error) => complaints.push(`${name}: ${error.message}`));
    page.on('console', (message) => message.type() === 'error' && !/status of 40[01]/.test(message.text()) && complaints.push(`${name}: ${message.text()}`));
    if (!signedOut) await context.addCookies([{ name: 'tideline_session', value: 'development', url: origin }]);
    await page.goto(origin + path);
    await page.waitForTimeout(1500);
    const asked = queries;
    await act?.(page);
    await page.waitForTimeout(400);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (overflow > 0) complaints.push(`${name}: ${overflow} px wider than the window`);
    await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
    console.log(`${name}: ${asked} queries, title "${await page.title()}"`);
    await context.close();
  }
} finally {
  await browser.close();
  await server.close();
}
for (const complaint of complaints) console.error(complaint);
process.exit(complaints.length === 0 ? 0 : 1);

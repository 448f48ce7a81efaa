// A stand-in for central while the page is worked on (`npm run dev`, `npm run preview`): it answers the documented
// HTTP surface with figures that are the same on every run. It is no part of the build.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Connect, Plugin } from 'vite';
import { dayAt, daysOf, localTimestamp, mondayOf } from '../src/lib/calendar.ts';

const SIGN_IN = '/sign-in?token=development';
const TODAY = dayAt(new Date(), 'UTC');
const CSP = "default-src 'self'; style-src 'self' 'unsafe-inline'";

interface Asked {
  site_id: string;
  metrics: string[];
  date_range: [string, string];
  dimensions?: string[];
  filters?: [string, string, string[]][];
  order_by?: [string, string][];
  pagination?: { limit: number; offset: number };
}

const sites = [
  site('shop.example', 'Europe/Berlin', 1),
  site('docs.example', 'America/New_York', 0.2),
  site('empty.example', 'Asia/Kathmandu', 0),
  { ...site('fresh.example', 'UTC', 0), first_event_at: null as string | null },
];

function site(site_id: string, timezone: string, size: number) {
  const origins = [`https://${site_id}`];
  const snippet = `<script defer src="http://127.0.0.1:8080/tideline.js" data-site="${site_id}"></script>`;
  return { site_id, timezone, origins, snippet, first_event_at: '2025-03-01T09:00:00Z' as string | null, size };
}

export function recordedContract(): Plugin {
  return {
    name: 'recorded-contract',
    apply: (_, { command, isPreview }) => command === 'serve' || isPreview === true,
    configureServer(server) {
      server.middlewares.use(answer);
      server.httpServer?.once('listening', () => server.config.logger.info(`  sign in: http://localhost:${server.config.server.port}${SIGN_IN}`));
    },
    configurePreviewServer(server) {
      server.middlewares.use((_, response, next) => {
        response.setHeader('content-security-policy', CSP);
        next();
      });
      server.middlewares.use(answer);
    },
  };
}

const answer: Connect.NextHandleFunction = (request, response, next) => {
  const url = new URL(request.url ?? '/', 'http://localhost');
  if (url.pathname === '/sign-in') return redirect(response, 'tideline_session=development; HttpOnly; SameSite=Lax; Path=/');
  if (url.pathname === '/sign-out') return redirect(response, 'tideline_session=; Max-Age=0; Path=/');
  if (!url.pathname.startsWith('/api/')) return next();
  if (!request.headers.cookie?.includes('tideline_session=development')) return json(response, 401, { error: 'sign in first' });
  void api(request, url).then(
    ([status, body]) => json(response, status, body),
    (error: unknown) => json(response, 500, { error: String(error) }),
  );
};

async function api(request: IncomingMessage, url: URL): Promise<[number, unknown]> {
  switch (`${request.method} ${url.pathname}`) {
    case 'GET /api/v2/me':
      return [200, { name: 'owner' }];
    case 'GET /api/v2/sites':
      return [200, { sites: sites.map(({ size: _, ...site }) => site) }];
    case 'GET /api/v2/live':
      return [200, live(url.searchParams.get('site_id') ?? '')];
    case 'GET /api/v2/ledger':
      return [200, ledger(url.searchParams.get('site_id') ?? '')];
    // Makes the fresh site's first event arrive.
    case 'POST /api/v2/first-event':
      Object.assign(sites[3] ?? {}, { first_event_at: new Date().toISOString(), size: 0.01 });
      return [200, {}];
    case 'POST /api/v2/query': {
      const chunks: Uint8Array[] = [];
      for await (const chunk of request) chunks.push(chunk as Uint8Array);
      return query(JSON.parse(Buffer.concat(chunks).toString()) as Asked);
    }
    default:
      return [404, { error: `no ${url.pathname} here` }];
  }
}

function live(siteId: string) {
  const size = sites.find(({ site_id }) => site_id === siteId)?.size ?? 0;
  const second = Math.floor(Date.now() / 1000);
  const minute = Math.floor(second / 60);
  const minutes = Array.from({ length: 30 }, (_, index) => {
    const at = minute - 29 + index;
    const part = at === minute ? (second % 60) / 60 : 1;
    const pageviews = Math.round(size * part * (60 + 50 * noise(`live ${at}`) + 20 * Math.sin(at / 4)));
    return { minute: new Date(at * 60_000).toISOString().replace('.000Z', 'Z'), pageviews, events: Math.round(pageviews * 0.12) };
  });
  return { current_visitors: Math.round(size * (84 + 9 * Math.sin(second / 7) + 5 * noise(`now ${second}`))), minutes };
}

/** Whole for the small site, not quite for the large one. */
function ledger(siteId: string) {
  const size = sites.find(({ site_id }) => site_id === siteId)?.size ?? 0;
  const counted = Math.round(size * 48_213);
  const lacking = size === 1;
  const dropped = lacking ? [{ reason: 'bot', events: 412, what: 'A program visited, by its own words', advice: 'Nothing: programs are not visitors' }, { reason: 'invalid_props', events: 9, what: 'An event has more than 30 properties, a key over 300 bytes, or a value over 2,000 bytes', advice: 'Pass fewer or shorter properties to tideline()' }] : [];
  const given_up = lacking ? [{ reason: 'expired', events: 31, what: 'The page could not send in time', advice: 'Look whether gateways were out of reach; visitors without network are normal' }] : [];
  const events = (reasons: { events: number }[]) => reasons.reduce((sum, reason) => sum + reason.events, 0);
  return {
    sent: counted + events(dropped),
    counted,
    dropped: { events: events(dropped), reasons: dropped },
    duplicates: lacking ? 127 : 0,
    given_up: { events: events(given_up), reasons: given_up },
    missing: { batches: lacking ? 3 : 0, awaited: lacking ? 1 : 0, events_estimated: lacking ? 14 : 0 },
    completeness: counted === 0 ? null : lacking ? 99.04 : 100,
    completeness_definition: 'counted / (sent + missing + given up), in events: a missing batch counts as the average batch of the period. What a page never numbered and never reported, because it was closed without a network, is unknown to everyone and not in it',
  };
}

// ── queries ──

const VALUES: Record<string, [string, number][]> = {
  'event:page': pages(),
  'visit:entry_page': pages().filter((_, index) => index % 2 === 0),
  'visit:exit_page': pages().reverse(),
  'event:name': [['pageview', 1], ...weighted('Add to cart|Signup|Checkout|Outbound link|Search|Newsletter|File download')],
  'visit:source': weighted('Direct / None|Google|news.ycombinator.com|newsletter|Bing|GitHub|DuckDuckGo|Reddit|lobste.rs|Mastodon|LinkedIn|YouTube'),
  'visit:referrer': weighted('Direct / None|google.com/|news.ycombinator.com/item|github.com/topics/analytics|www.reddit.com/r/selfhosted|lobste.rs/'),
  'visit:utm_campaign': weighted('(not set)|autumn-sale|launch-week|retargeting'),
  'visit:utm_source': weighted('(not set)|newsletter|google|partner'),
  'visit:utm_medium': weighted('(not set)|email|cpc|social'),
  'visit:utm_content': weighted('(not set)|hero|footer'),
  'visit:utm_term': weighted('(not set)'),
  'visit:country': weighted('DE|US|FR|GB|NL|CH|AT|IN|PL|BR|JP|ES|(not set)|SE|CA|IT|AU|NP'),
  'visit:browser': weighted('Chrome|Safari|Firefox|Edge|Samsung Internet|Opera|(not set)'),
  'visit:os': weighted('Windows|iOS|macOS|Android|GNU/Linux|Chrome OS'),
  'visit:device': weighted('Desktop|Mobile|Tablet'),
};

function weighted(names: string): [string, number][] {
  const values = names.split('|').map((name, index): [string, number] => [name, (0.8 + 0.4 * noise(name)) / (index + 1.5) ** 1.25]);
  const sum = values.reduce((sum, [, weight]) => sum + weight, 0);
  return values.map(([name, weight]) => [name, weight / sum]);
}

function pages(): [string, number][] {
  const names = ['/', '/products', '/products/rain-jacket', '/cart', '/blog/how-tides-work-and-why-they-are-late-every-day', '/pricing', '/about'];
  return weighted([...names, ...Array.from({ length: 80 }, (_, index) => `/products/item-${index + 1}`)].join('|'));
}

function query(asked: Asked): [number, unknown] {
  const found = sites.find(({ site_id }) => site_id === asked.site_id);
  if (found === undefined) return [404, { error: `no site is named ${asked.site_id}` }];
  const { size, timezone } = found;
  const dimension = asked.dimensions?.[0] ?? '';
  const filters = asked.filters ?? [];
  const ofVisits = filters.filter(([, name]) => name.startsWith('visit:'));
  const [visit] = ofVisits;
  const crossed = visit !== undefined && dimension.startsWith('event:');
  if (crossed && asked.site_id === 'docs.example') {
    return [400, { error: 'this needs raw events, and site "docs.example" keeps none (raw = "none"); ask for one thing at a time' }];
  }
  const meta = crossed ? { source: 'raw', exact: true, raw: { complete: false, events: 46_120, counted: 48_213 } } : {};

  const share = ofVisits.reduce((share, [, name, values]) => share * weightOf(name, values), 1);
  const [from, to] = asked.date_range;
  const until = to.length > 10 ? to : localTimestamp(new Date(), timezone);
  const hours = daysOf(from.slice(0, 10), to.slice(0, 10)).flatMap(hoursOf).filter((hour) => hour.replace(' ', 'T') <= until);
  const figures = (labels: string[], factor: number) => {
    const visits = labels.reduce((sum, label) => sum + hourly(label) * size, 0) * factor * share;
    return asked.metrics.map((metric) => figure(metric, visits, `${dimension}${factor}`));
  };

  let rows: { metrics: (number | null)[]; dimensions: string[] }[];
  if (dimension === '') rows = [{ metrics: figures(hours, 1), dimensions: [] }];
  else if (dimension === 'time:hour') rows = hours.map((hour) => ({ metrics: figures([hour], 1), dimensions: [hour] }));
  else if (dimension === 'time:day' || dimension === 'time:week') {
    const hoursOfLabel = new Map<string, string[]>();
    for (const hour of hours) {
      const day = hour.slice(0, 10);
      const week = mondayOf(day) < from ? from.slice(0, 10) : mondayOf(day);
      const label = dimension === 'time:day' ? day : week;
      hoursOfLabel.set(label, [...(hoursOfLabel.get(label) ?? []), hour]);
    }
    rows = [...hoursOfLabel].map(([label, hours]) => ({ metrics: figures(hours, 1), dimensions: [label] }));
  } else {
    const chosen = ofVisits.find(([, name]) => name === dimension)?.[2];
    const leftOut = filters.find(([operator, name]) => operator === 'is_not' && name === dimension)?.[2];
    rows = (VALUES[dimension] ?? [])
      .filter(([value]) => (chosen?.includes(value) ?? true) && leftOut?.includes(value) !== true)
      .map(([value, weight]) => ({ metrics: figures(hours, chosen === undefined ? weight : weight / weightOf(dimension, chosen)), dimensions: [value] }))
      .filter(({ metrics }) => (metrics[0] ?? 0) > 0)
      .sort((a, b) => (b.metrics[0] ?? 0) - (a.metrics[0] ?? 0));
  }
  const { limit, offset } = asked.pagination ?? { limit: 10_000, offset: 0 };
  return [200, { results: rows.slice(offset, offset + limit), meta, query: asked }];
}

// Without the hours that daylight saving adds and takes, which nothing here depends on.
function hoursOf(day: string): string[] {
  return Array.from({ length: 24 }, (_, hour) => `${day} ${String(hour).padStart(2, '0')}:00:00`);
}

function weightOf(dimension: string, values: string[]): number {
  return (VALUES[dimension] ?? []).filter(([value]) => values.includes(value)).reduce((sum, [, weight]) => sum + weight, 0);
}

function figure(metric: string, visits: number, salt: string): number | null {
  const whole = Math.round(visits);
  switch (metric) {
    case 'visitors':
      return Math.round(visits * 0.82);
    case 'visits':
      return whole;
    case 'pageviews':
      return Math.round(visits * 2.7);
    case 'events':
      return Math.round(visits * 0.9);
    case 'bounce_rate':
      return whole === 0 ? 0 : Math.round(38 + 18 * noise(salt + whole));
    case 'views_per_visit':
      return whole === 0 ? 0 : Math.round((2.3 + noise(salt + whole)) * 100) / 100;
    case 'visit_duration':
      return whole === 0 ? 0 : Math.round(95 + 90 * noise(salt + whole));
    default:
      throw new Error(`no metric is named ${metric}`);
  }
}

/** Visits in an hour: more by day than by night, fewer on weekends, growing over the year. */
function hourly(label: string): number {
  const hour = Number(label.slice(11, 13));
  const day = label.slice(0, 10);
  const weekday = new Date(`${day}T00:00:00Z`).getUTCDay();
  const age = (Date.parse(`${TODAY}T00:00:00Z`) - Date.parse(`${day}T00:00:00Z`)) / 86_400_000;
  const rhythm = 0.25 + Math.max(0, Math.sin(((hour - 5) / 19) * Math.PI)) ** 1.4;
  return 190 * rhythm * (weekday % 6 === 0 ? 0.62 : 1) * (0.75 + 0.5 * noise(label)) * Math.max(0.2, 1 - age / 620);
}

/** 0 to 1, always the same for the same text (FNV-1a). */
function noise(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  return ((hash >>> 8) % 10_007) / 10_007;
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.statusCode = status;
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(body));
}

function redirect(response: ServerResponse, cookie: string): void {
  response.statusCode = 303;
  response.setHeader('set-cookie', cookie);
  response.setHeader('location', '/');
  response.end();
}

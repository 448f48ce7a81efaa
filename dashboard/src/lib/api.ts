// What central answers, over the session cookie of the same origin. No key is ever in the page.

import type { Dimension } from './dimensions';
import type { QueryFilter } from './filters';
import type { Ledger } from './ledger';
import type { Figure, Metric } from './metrics';
import type { Interval, QueryRange } from './period';

export interface Site {
  site_id: string;
  /** IANA. */
  timezone: string;
  origins: string[];
  /** The `<script>` line to paste. */
  snippet: string;
  /** RFC 3339; null until the site counted something. */
  first_event_at: string | null;
}

export interface LiveMinute {
  /** RFC 3339, in UTC. */
  minute: string;
  pageviews: number;
  events: number;
}

export interface Live {
  current_visitors: number;
  /** The last 30, oldest first. */
  minutes: LiveMinute[];
}

export interface Query {
  site_id: string;
  metrics: Metric[];
  date_range: QueryRange;
  dimensions: (Dimension | `time:${Interval}`)[];
  filters: QueryFilter[];
  order_by?: [Metric, 'asc' | 'desc'][];
  pagination?: { limit: number; offset: number };
}

export interface Row {
  /** In the order of the query's metrics. */
  metrics: Figure[];
  /** In the order of the query's dimensions. */
  dimensions: string[];
}

/** Nobody is signed in, or the session is over. */
export class SignedOutError extends Error {}

/** Central understood the question, and the site keeps no raw events that would answer it. */
export class NeedsRawError extends Error {}

/** Central refused or failed; the message is its own. */
export class RefusedError extends Error {}

/** No answer at all. */
export class UnreachableError extends Error {}

export async function fetchMe(signal?: AbortSignal): Promise<{ name: string }> {
  return ask('/api/v2/me', {}, signal);
}

export async function fetchSites(signal?: AbortSignal): Promise<Site[]> {
  const { sites } = await ask<{ sites: Site[] }>('/api/v2/sites', {}, signal);
  return sites;
}

export async function fetchLive(siteId: string, signal?: AbortSignal): Promise<Live> {
  return ask(`/api/v2/live?site_id=${encodeURIComponent(siteId)}`, {}, signal);
}

/** Days of arrival, UTC, both included. */
export async function fetchLedger(siteId: string, from: string, to: string, signal?: AbortSignal): Promise<Ledger> {
  return ask(`/api/v2/ledger?${new URLSearchParams({ site_id: siteId, from, to })}`, {}, signal);
}

/** How whole an answer from raw events is: they come up behind everything else. */
export interface RawState {
  complete: boolean;
  /** Raw events in the period. */
  events: number;
  /** Events counted in the period. */
  counted: number;
}

/** `query` is a `Query` in JSON. */
export async function fetchRows(query: string, signal?: AbortSignal): Promise<{ rows: Row[]; raw: RawState | undefined }> {
  const { results, meta } = await ask<{ results: Row[]; meta?: { raw?: RawState } }>(
    '/api/v2/query',
    { method: 'POST', headers: { 'content-type': 'application/json' }, body: query },
    signal,
  );
  return { rows: results, raw: meta?.raw };
}

export async function signOut(): Promise<void> {
  await request('/sign-out', { method: 'POST' });
}

async function ask<T>(path: string, init: RequestInit, signal?: AbortSignal): Promise<T> {
  const response = await request(path, signal === undefined ? init : { ...init, signal });
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new RefusedError(`${path} answered something that is not JSON.`);
  }
}

async function request(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { credentials: 'same-origin', ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new UnreachableError('The server cannot be reached.');
  }
  if (response.ok) return response;
  if (response.status === 401) throw new SignedOutError('Not signed in.');
  const message = await errorOf(response);
  throw response.status === 400 && /\braw\b/i.test(message) ? new NeedsRawError(message) : new RefusedError(message);
}

async function errorOf(response: Response): Promise<string> {
  try {
    const { error } = (await response.json()) as { error?: unknown };
    if (typeof error === 'string' && error !== '') return error;
  } catch {
    // A proxy in between answers with a page of its own: the status says enough.
  }
  return `The server answered with status ${response.status}.`;
}

// The live figures of one site, asked for once a second while the page is visible, and the pulse by which everything
// else is refreshed: only while something happens, so an idle site costs no database query.

import { fetchLive, type Live, SignedOutError } from './api';
import { session } from './session.svelte';

const POLL_MS = 1_000;
/** After a failure; doubled each time up to half a minute. */
const RETRY_MS = 2_000;
const RETRY_MAX_MS = 30_000;
const REFRESH_MS = 10_000;
/** A rollup follows its live figure within 15 s: so long after the last change there may be more to read. */
const SETTLED_MS = 30_000;

export class LiveFeed {
  live = $state.raw<Live>();
  reachable = $state(true);
  /** Grows when flushed figures may have changed. */
  refreshes = $state(0);

  readonly #siteId: string;
  readonly #abort = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #seen = '';
  #changedAt_ms = 0;
  #refreshedAt_ms = performance.now();

  /** Polls until `stop`. */
  constructor(siteId: string) {
    this.#siteId = siteId;
    document.addEventListener('visibilitychange', this.#onVisibility);
    if (!document.hidden) void this.#poll();
  }

  stop(): void {
    this.#abort.abort();
    clearTimeout(this.#timer);
    document.removeEventListener('visibilitychange', this.#onVisibility);
  }

  #onVisibility = (): void => {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    // Nothing was watched while hidden: whatever is shown may be old.
    this.#changedAt_ms = performance.now();
    void this.#poll();
  };

  async #poll(): Promise<void> {
    const started_ms = performance.now();
    try {
      const live = await fetchLive(this.#siteId, this.#abort.signal);
      this.live = live;
      this.reachable = true;
      this.#failures = 0;
      this.#note(live);
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      if (error instanceof SignedOutError) return session.end();
      this.reachable = false;
      this.#failures += 1;
    }
    if (this.#abort.signal.aborted || document.hidden) return;
    const wait_ms = this.#failures === 0 ? POLL_MS : Math.min(RETRY_MAX_MS, RETRY_MS * 2 ** (this.#failures - 1));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#poll(), Math.max(0, started_ms + wait_ms - performance.now()));
  }

  #note(live: Live): void {
    const now_ms = performance.now();
    // Minutes slide out at the old end without anything happening: only what is counted tells of a change.
    const counted = JSON.stringify(live.minutes.filter(({ pageviews, events }) => pageviews + events > 0).slice(-3));
    if (counted !== this.#seen) {
      // What the first answer shows may not be flushed yet either.
      if (this.#seen !== '' || isAlive(live)) this.#changedAt_ms = now_ms;
      this.#seen = counted;
    }
    if (isAlive(live)) session.markAlive(this.#siteId);
    const changing = this.#changedAt_ms > 0 && now_ms - this.#changedAt_ms < SETTLED_MS;
    if (changing && now_ms - this.#refreshedAt_ms >= REFRESH_MS) {
      this.#refreshedAt_ms = now_ms;
      this.refreshes += 1;
    }
  }
}

/** Whether anything was counted in the last half hour. */
export function isAlive(live: Live): boolean {
  return live.current_visitors > 0 || live.minutes.some(({ pageviews, events }) => pageviews + events > 0);
}

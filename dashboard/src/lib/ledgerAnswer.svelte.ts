// The ledger that answers what the panel asked last. Figures of one range are never shown as those of another.

import { fetchLedger, SignedOutError } from './api';
import type { Ledger } from './ledger';
import { session } from './session.svelte';

export class LedgerAnswer {
  ledger = $state.raw<Ledger>();
  message = $state<string>();

  /** The site and range that `ledger` or `message` answer. */
  #question = '';
  #abort: AbortController | undefined;

  /** Asking the same again is a refresh: it happens silently, and one that fails leaves the figures. */
  async ask(siteId: string, from: string, to: string): Promise<void> {
    this.stop();
    const abort = new AbortController();
    this.#abort = abort;
    const question = JSON.stringify([siteId, from, to]);
    if (question !== this.#question) [this.ledger, this.message, this.#question] = [undefined, undefined, question];
    try {
      const answer = await fetchLedger(siteId, from, to, abort.signal);
      if (abort.signal.aborted) return;
      [this.ledger, this.message] = [answer, undefined];
    } catch (error) {
      if (abort.signal.aborted) return;
      if (error instanceof SignedOutError) return session.end();
      if (this.ledger === undefined) this.message = error instanceof Error ? error.message : String(error);
    }
  }

  stop(): void {
    this.#abort?.abort();
  }
}

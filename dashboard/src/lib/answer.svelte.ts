// The rows that answer what a component asked last. While another question is on its way the old answer stays, marked
// as stale, so nothing on the page jumps.

import { fetchRows, NeedsRawError, type RawState, type Row, SignedOutError } from './api';
import { session } from './session.svelte';

export type Trouble = { kind: 'needs_raw' | 'failed'; message: string };

export class Answer {
  rows = $state.raw<Row[]>();
  trouble = $state.raw<Trouble>();
  /** Of `rows`, if they come from raw events. */
  raw = $state.raw<RawState>();
  /** Another question is on its way: `rows` do not answer it. A refresh does not count. */
  stale = $state(false);

  /** The question that `rows` or `trouble` answer. */
  #question = '';
  #underway = '';
  #abort: AbortController | undefined;

  /**
   * Sends `query`, unless just that is on its way already. `question` says what it is about: a query about the same
   * question as the last is a refresh, and happens silently.
   */
  async ask(query: string, question = query): Promise<void> {
    if (query === this.#underway) return;
    // What cannot be answered will not be by asking again.
    if (question === this.#question && this.trouble?.kind === 'needs_raw') return;
    this.stop();
    const abort = new AbortController();
    this.#abort = abort;
    this.#underway = query;
    this.stale = question !== this.#question && this.rows !== undefined;
    try {
      const { rows, raw } = await fetchRows(query, abort.signal);
      if (abort.signal.aborted) return;
      this.rows = rows;
      this.raw = raw;
      this.trouble = undefined;
    } catch (error) {
      if (abort.signal.aborted) return;
      this.#fail(error, question);
    }
    this.#question = question;
    this.#underway = '';
    this.stale = false;
  }

  /** Forgets the answer: what comes next is of another kind. */
  clear(): void {
    this.stop();
    this.rows = undefined;
    this.trouble = undefined;
    this.stale = false;
    this.#question = '';
  }

  stop(): void {
    this.#abort?.abort();
    this.#underway = '';
  }

  #fail(error: unknown, question: string): void {
    if (error instanceof SignedOutError) return session.end();
    // A refresh that fails leaves the figures that it would have refreshed.
    if (question === this.#question && this.rows !== undefined) return;
    this.rows = undefined;
    this.trouble = {
      kind: error instanceof NeedsRawError ? 'needs_raw' : 'failed',
      message: error instanceof Error ? error.message : String(error),
    };
  }
}

import { describe, expect, it } from 'vitest';
import { formatCompleteness, type Ledger, lossesOf, notesOf, verdictOf } from './ledger';

const whole: Ledger = {
  sent: 12_345,
  counted: 12_345,
  dropped: { events: 0, reasons: [] },
  duplicates: 0,
  given_up: { events: 0, reasons: [] },
  missing: { batches: 0, awaited: 0, events_estimated: 0 },
  completeness: 100,
  completeness_definition: 'counted / …',
};

const bots = { reason: 'bot', events: 7, what: 'A program visited', advice: 'Nothing' };
const expired = { reason: 'expired', events: 30, what: 'Too late', advice: 'Look' };

describe('the ledger', () => {
  it('says in one sentence that everything was counted', () => {
    expect(verdictOf(whole)).toBe('All 12,345 events that pages sent were counted, each exactly once.');
    expect(lossesOf(whole)).toEqual([]);
    expect(notesOf(whole)).toEqual([]);
    expect(formatCompleteness(whole.completeness)).toBe('100%');
  });

  it('never calls 100 what lacks something', () => {
    const lacking = { ...whole, sent: 12_352, dropped: { events: 7, reasons: [bots] }, completeness: 99.99 };
    expect(formatCompleteness(99.99)).toBe('99.99%');
    expect(verdictOf(lacking)).toBe('Of 12,352 events that arrived, 12,345 were counted, each exactly once.');
  });

  it('lists losses by their size, and says whose they are', () => {
    const missing = { batches: 2, awaited: 1, events_estimated: 10 };
    const losses = lossesOf({ ...whole, dropped: { events: 7, reasons: [bots] }, given_up: { events: 30, reasons: [expired] }, missing });
    expect(losses.map(({ reason, events, side }) => [reason, events, side])).toEqual([
      ['expired', 30, 'never sent'],
      ['missing', 10, 'never came'],
      ['bot', 7, 'not counted'],
    ]);
  });

  it('tells repeats and what may still come beside the count', () => {
    expect(notesOf({ ...whole, duplicates: 1, missing: { batches: 0, awaited: 3, events_estimated: 0 } })).toEqual([
      '1 repeated transmission was recognised and counted once.',
      '3 batches may still come.',
    ]);
    expect(notesOf({ ...whole, missing: null })).toEqual(['Missing batches are not known: this site keeps no raw rows.']);
  });

  it('is quiet about a period without events', () => {
    expect(verdictOf({ ...whole, sent: 0, counted: 0, completeness: null })).toBe('Nothing was sent in this period.');
    expect(formatCompleteness(null)).toBe('–');
  });
});

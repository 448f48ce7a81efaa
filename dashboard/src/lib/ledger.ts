// What became of everything that a site's pages sent, and how it is told in one sentence.

import { formatExact } from './format';

export interface Reason {
  reason: string;
  events: number;
  /** In plain words. */
  what: string;
  /** What to do about it. */
  advice: string;
}

/** `GET /api/v2/ledger`: of all days together. */
export interface Ledger {
  sent: number;
  counted: number;
  dropped: { events: number; reasons: Reason[] };
  /** Transmissions of a batch that was there before. */
  duplicates: number;
  given_up: { events: number; reasons: Reason[] };
  /** Holes in the numbering of batches; null where raw rows are not kept. */
  missing: { batches: number; awaited: number; events_estimated: number } | null;
  /** 0 to 100, rounded down; null when nothing was sent. */
  completeness: number | null;
  completeness_definition: string;
}

/** One line of "why". */
export interface Loss extends Reason {
  /** Whose doing it is, as a reader would say. */
  side: 'not counted' | 'never sent' | 'never came';
}

/** Everything that was not counted, the most events first. */
export function lossesOf({ dropped, given_up, missing }: Ledger): Loss[] {
  const losses: Loss[] = [
    ...dropped.reasons.map((reason) => ({ ...reason, side: 'not counted' as const })),
    ...given_up.reasons.map((reason) => ({ ...reason, side: 'never sent' as const })),
  ];
  if (missing !== null && missing.batches > 0) {
    losses.push({
      reason: 'missing',
      events: missing.events_estimated,
      what: `${formatExact(missing.batches)} ${missing.batches === 1 ? 'batch' : 'batches'} never came though later ones did`,
      advice: 'Nothing, if they are few: a page was closed without a network. The events in them are estimated',
      side: 'never came',
    });
  }
  return losses.sort((a, b) => b.events - a.events || a.reason.localeCompare(b.reason));
}

/** The panel's first sentence. */
export function verdictOf(ledger: Ledger): string {
  if (ledger.completeness === null) return 'Nothing was sent in this period.';
  if (ledger.completeness === 100) return `All ${formatExact(ledger.sent)} events that pages sent were counted, each exactly once.`;
  return `Of ${formatExact(ledger.sent)} events that arrived, ${formatExact(ledger.counted)} were counted, each exactly once.`;
}

/** What is worth knowing but takes nothing away from the count. */
export function notesOf({ duplicates, missing }: Ledger): string[] {
  const notes: string[] = [];
  if (duplicates > 0) notes.push(`${formatExact(duplicates)} repeated ${duplicates === 1 ? 'transmission was' : 'transmissions were'} recognised and counted once.`);
  if (missing === null) notes.push('Missing batches are not known: this site keeps no raw rows.');
  else if (missing.awaited > 0) notes.push(`${formatExact(missing.awaited)} ${missing.awaited === 1 ? 'batch' : 'batches'} may still come.`);
  return notes;
}

const twoDigits = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

/** "100%", "99.97%": never 100 when something is lacking. */
export function formatCompleteness(completeness: number | null): string {
  if (completeness === null) return '–';
  return completeness === 100 ? '100%' : `${twoDigits.format(completeness)}%`;
}

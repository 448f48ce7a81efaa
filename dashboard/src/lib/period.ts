// The period a report covers: how the URL names it, which dates it is in a site's timezone, which stretch it is
// compared with, and the buckets of its chart.

import { addDays, addMonths, type Day, dayAt, daysBetween, daysOf, firstOfMonth, hoursOf, instantOf, isDay, localTimestamp, mondayOf } from './calendar';

export type Period = { kind: 'today' | '7d' | '30d' | '12mo' } | { kind: 'custom'; from: Day; to: Day };

export const DEFAULT_PERIOD: Period = { kind: 'today' };

export const PERIODS = [
  { kind: 'today', label: 'Today', short: 'Today' },
  { kind: '7d', label: '7 days', short: '7d' },
  { kind: '30d', label: '30 days', short: '30d' },
  { kind: '12mo', label: '12 months', short: '12mo' },
] as const;

/** Dates, both included. */
export interface DateRange {
  from: Day;
  to: Day;
}

/** What a query's `date_range` takes: two dates, or two instants. */
export type QueryRange = [string, string];

export type Interval = 'hour' | 'day' | 'week';

export function periodFromUrl(parameters: URLSearchParams): Period {
  const kind = parameters.get('period');
  if (kind === 'custom') {
    const [from, to] = [parameters.get('from'), parameters.get('to')];
    if (isDay(from) && isDay(to)) return from <= to ? { kind, from, to } : { kind, from: to, to: from };
  }
  return kind === '7d' || kind === '30d' || kind === '12mo' ? { kind } : DEFAULT_PERIOD;
}

export function periodIntoUrl(period: Period, parameters: URLSearchParams): void {
  if (period.kind !== DEFAULT_PERIOD.kind) parameters.set('period', period.kind);
  if (period.kind === 'custom') {
    parameters.set('from', period.from);
    parameters.set('to', period.to);
  }
}

export function dateRange(period: Period, now: Date, timezone: string): DateRange {
  if (period.kind === 'custom') return { from: period.from, to: period.to };
  const today = dayAt(now, timezone);
  switch (period.kind) {
    case 'today':
      return { from: today, to: today };
    case '7d':
      return { from: addDays(today, -6), to: today };
    case '30d':
      return { from: addDays(today, -29), to: today };
    // This month and the eleven before it.
    case '12mo':
      return { from: addMonths(firstOfMonth(today), -11), to: today };
  }
}

/** The dates before `range`, as many as it has; of twelve months the same dates a year ago. */
export function previousDates(period: Period, range: DateRange): DateRange {
  if (period.kind === '12mo') return { from: addMonths(range.from, -12), to: addMonths(range.to, -12) };
  const to = addDays(range.from, -1);
  return { from: addDays(range.from, -daysBetween(range.from, range.to)), to };
}

/**
 * What figures are compared with. A range that today belongs to is not over: it is compared with the previous dates
 * up to the same time of day, or every morning would look like a collapse.
 */
export function comparisonRange(period: Period, range: DateRange, now: Date, timezone: string): QueryRange {
  const previous = previousDates(period, range);
  const today = dayAt(now, timezone);
  if (range.to < today) return [previous.from, previous.to];
  // To the minute, so that the same question is asked for a minute.
  const time = `${localTimestamp(now, timezone).slice(11, 16)}:00`;
  const end = instantOf(addDays(previous.to, 1 - daysBetween(today, range.to)), time, timezone);
  const start = instantOf(previous.from, '00:00:00', timezone);
  return [localTimestamp(start, timezone), localTimestamp(end, timezone)];
}

/** Few enough points to read, many enough to see something. */
export function intervalOf(range: DateRange): Interval {
  const days = daysBetween(range.from, range.to);
  return days <= 2 ? 'hour' : days <= 100 ? 'day' : 'week';
}

/**
 * The buckets of a range's chart, labelled as the Stats API labels them, empty ones included. A week is labelled by its
 * Monday, or by the first day of the range if it began before.
 */
export function bucketsOf(range: DateRange, interval: Interval, timezone: string): string[] {
  const days = daysOf(range.from, range.to);
  switch (interval) {
    case 'hour':
      return days.flatMap((day) => hoursOf(day, timezone));
    case 'day':
      return days;
    case 'week':
      return days.filter((day) => day === range.from || day === mondayOf(day));
  }
}

/** The bucket that `now` falls in. Buckets behind it have not happened, and it is not over itself. */
export function currentBucket(range: DateRange, interval: Interval, now: Date, timezone: string): string {
  const local = localTimestamp(now, timezone);
  const day = local.slice(0, 10);
  switch (interval) {
    case 'hour':
      return `${day} ${local.slice(11, 13)}:00:00`;
    case 'day':
      return day;
    case 'week':
      return mondayOf(day) < range.from && range.from <= day ? range.from : mondayOf(day);
  }
}

/** Whether the first bucket lacks the days of its week before the range. */
export function beginsInside(range: DateRange, interval: Interval): boolean {
  return interval === 'week' && mondayOf(range.from) !== range.from;
}

/** A label of the Stats API in the one form that `bucketsOf` makes, whichever separator and precision it came with. */
export function bucketKey(label: string, interval: Interval): string {
  return interval === 'hour' ? `${label.slice(0, 10)} ${label.slice(11, 13)}:00:00` : label.slice(0, 10);
}

export function isRunning(range: DateRange, now: Date, timezone: string): boolean {
  const today = dayAt(now, timezone);
  return range.from <= today && today <= range.to;
}

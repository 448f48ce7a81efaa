// Figures, dates and names as a reader sees them. Numbers and dates follow the reader's locale, times the site's zone.

import { addDays, mondayOf } from './calendar';
import type { DateRange, Interval } from './period';

const locale = undefined;

const exact = new Intl.NumberFormat(locale);
const compact = new Intl.NumberFormat(locale, { notation: 'compact', maximumSignificantDigits: 3 });
const oneDecimal = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const twoDecimals = new Intl.NumberFormat(locale, { minimumFractionDigits: 0, maximumFractionDigits: 2 });

/** What stands where there is no figure. */
export const NO_FIGURE = '–';

/** Exact below ten thousand, three digits above. */
export function formatCount(value: number | null): string {
  if (value === null) return NO_FIGURE;
  return value < 10_000 ? exact.format(value) : compact.format(value);
}

export function formatExact(value: number | null): string {
  return value === null ? NO_FIGURE : exact.format(value);
}

export function formatRatio(value: number | null): string {
  return value === null ? NO_FIGURE : twoDecimals.format(value);
}

/** A share of 0 to 100. */
export function formatPercent(value: number | null): string {
  return value === null ? NO_FIGURE : `${Math.round(value)}%`;
}

/** A share of 0 to 100 with as many digits as tell it from nothing. */
export function formatShare(value: number): string {
  if (value > 0 && value < 0.1) return '<0.1%';
  return `${value < 10 ? oneDecimal.format(value) : Math.round(value)}%`;
}

export function formatDuration(seconds: number | null): string {
  if (seconds === null) return NO_FIGURE;
  const total = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  if (hours > 0) return `${hours}h ${minutes}m`;
  return minutes > 0 ? `${minutes}m ${rest}s` : `${rest}s`;
}

/** "12%", or "3 pts" of a share; without sign: an arrow and a colour show the direction. */
export function formatChange(change: number, share = false): string {
  const size = Math.abs(change);
  if (share) return `${Math.round(size)} pts`;
  return size >= 1000 ? `${compact.format(size)}%` : `${Math.round(size)}%`;
}

/** A bucket's label under the axis: "14:00", "22 Nov". */
export function formatTick(bucket: string, interval: Interval): string {
  if (interval === 'hour') return bucket.slice(11, 16);
  return inUtc({ day: 'numeric', month: 'short' }).format(Date.parse(`${bucket}T00:00:00Z`));
}

/** A bucket's full name: "Sun 22 Nov, 14:00–15:00", "Sun 22 Nov 2026", "16–22 Nov 2026". */
export function formatBucket(bucket: string, interval: Interval): string {
  if (interval === 'week') return formatRange({ from: bucket, to: addDays(mondayOf(bucket), 6) });
  const day = Date.parse(`${bucket.slice(0, 10)}T00:00:00Z`);
  if (interval === 'day') return inUtc({ weekday: 'short', day: 'numeric', month: 'short', year: 'numeric' }).format(day);
  const next = (Number(bucket.slice(11, 13)) + 1) % 24;
  const date = inUtc({ weekday: 'short', day: 'numeric', month: 'short' }).format(day);
  return `${date}, ${bucket.slice(11, 16)}–${String(next).padStart(2, '0')}:00`;
}

export function formatRange(range: DateRange): string {
  const date = inUtc({ day: 'numeric', month: 'short', year: 'numeric' });
  return date.formatRange(Date.parse(`${range.from}T00:00:00Z`), Date.parse(`${range.to}T00:00:00Z`));
}

/** A minute on the site's clocks: "14:05". */
export function formatMinute(instant: string, timezone: string): string {
  return new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', timeZone: timezone }).format(Date.parse(instant));
}

const regions = new Intl.DisplayNames(locale, { type: 'region', fallback: 'none' });

/** The country's name; the code itself if it names none. */
export function countryName(code: string): string {
  try {
    return regions.of(code) ?? code;
  } catch {
    return code;
  }
}

// Dates without a zone are formatted as UTC so that the reader's own zone cannot move them.
function inUtc(options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  return new Intl.DateTimeFormat(locale, { ...options, timeZone: 'UTC' });
}

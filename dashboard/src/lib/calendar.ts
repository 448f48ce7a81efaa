// Calendar arithmetic in a site's timezone. A `Day` is a calendar date with no zone ("2026-11-22"): dates are added
// and compared as dates, and only the two functions that take a timezone touch instants. So a day of 23 or 25 hours
// needs no special case.

export type Day = string;

const DAY_MS = 86_400_000;

/** The date that clocks in `timezone` show at `instant`. */
export function dayAt(instant: Date, timezone: string): Day {
  return localParts(instant, timezone).day;
}

/** The local time of `instant` with its offset, in RFC 3339: "2026-11-22T14:05:09+01:00". */
export function localTimestamp(instant: Date, timezone: string): string {
  const { day, time } = localParts(instant, timezone);
  const offset_min = Math.round((asUtc(day, time) - Math.floor(instant.getTime() / 1000) * 1000) / 60_000);
  const sign = offset_min < 0 ? '-' : '+';
  const [hours, minutes] = [Math.floor(Math.abs(offset_min) / 60), Math.abs(offset_min) % 60];
  return `${day}T${time}${sign}${pad(hours)}:${pad(minutes)}`;
}

/** The instant at which clocks in `timezone` show `time` ("14:05:09") on `day`; of two, the earlier; of none, the one after the gap. */
export function instantOf(day: Day, time: string, timezone: string): Date {
  const wanted = asUtc(day, time);
  const offsetAt = (instant: number) => {
    const parts = localParts(new Date(instant), timezone);
    return asUtc(parts.day, parts.time) - instant;
  };
  // The offsets a day before and after enclose any change of the clocks.
  const candidates = [wanted - offsetAt(wanted - DAY_MS), wanted - offsetAt(wanted + DAY_MS)];
  const exact = candidates.filter((candidate) => candidate + offsetAt(candidate) === wanted);
  return new Date(exact.length > 0 ? Math.min(...exact) : Math.max(...candidates));
}

/** The hours of a local day as the Stats API labels them ("2026-11-22 13:00:00"): 23 to 25 of them, a repeated one once. */
export function hoursOf(day: Day, timezone: string): string[] {
  const labels = new Set<string>();
  const noon = Date.parse(`${day}T12:00:00Z`);
  // No zone is further than 14 hours from UTC, and no local hour lasts less than half of one.
  for (let instant = noon - 27 * 3_600_000; instant <= noon + 27 * 3_600_000; instant += 1_800_000) {
    const local = localParts(new Date(instant), timezone);
    if (local.day === day) labels.add(`${day} ${local.time.slice(0, 2)}:00:00`);
  }
  return [...labels];
}

export function addDays(day: Day, days: number): Day {
  return new Date(Date.parse(`${day}T00:00:00Z`) + days * DAY_MS).toISOString().slice(0, 10);
}

/** The same date of another month; the last of that month if it is shorter. */
export function addMonths(day: Day, months: number): Day {
  const [year = 0, month = 1, date = 1] = day.split('-').map(Number);
  const last = new Date(Date.UTC(year, month - 1 + months + 1, 0));
  return `${last.toISOString().slice(0, 8)}${pad(Math.min(date, last.getUTCDate()))}`;
}

export function firstOfMonth(day: Day): Day {
  return `${day.slice(0, 8)}01`;
}

/** The Monday of the week that `day` is in. */
export function mondayOf(day: Day): Day {
  const weekday = new Date(`${day}T00:00:00Z`).getUTCDay();
  return addDays(day, -((weekday + 6) % 7));
}

/** Days from `from` to `to`, both included. */
export function daysBetween(from: Day, to: Day): number {
  return Math.round((Date.parse(`${to}T00:00:00Z`) - Date.parse(`${from}T00:00:00Z`)) / DAY_MS) + 1;
}

export function daysOf(from: Day, to: Day): Day[] {
  return Array.from({ length: Math.max(0, daysBetween(from, to)) }, (_, index) => addDays(from, index));
}

/** Whether this is a date that exists: "2026-02-30" does not. */
export function isDay(text: string | null): text is Day {
  if (text === null || !/^\d{4}-\d{2}-\d{2}$/.test(text)) return false;
  const instant = Date.parse(`${text}T00:00:00Z`);
  return !Number.isNaN(instant) && new Date(instant).toISOString().startsWith(text);
}

// Making a formatter is slow (about 50 µs); a page uses one or two timezones.
const formatters = new Map<string, Intl.DateTimeFormat>();

function localParts(instant: Date, timezone: string): { day: Day; time: string } {
  let formatter = formatters.get(timezone);
  if (formatter === undefined) {
    formatter = new Intl.DateTimeFormat('en-CA', {
      timeZone: timezone,
      calendar: 'iso8601',
      hourCycle: 'h23',
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
    });
    formatters.set(timezone, formatter);
  }
  const part: Record<string, string> = {};
  for (const { type, value } of formatter.formatToParts(instant)) part[type] = value;
  return { day: `${part.year}-${part.month}-${part.day}`, time: `${part.hour}:${part.minute}:${part.second}` };
}

function asUtc(day: Day, time: string): number {
  return Date.parse(`${day}T${time}Z`);
}

function pad(number: number): string {
  return String(number).padStart(2, '0');
}

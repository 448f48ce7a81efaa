// Which buckets of the time chart carry a label, and where the value axis has its lines. The chart's x is the index
// of a bucket, so axis labels are the site's dates and hours and never the browser's.

import { formatBucket, formatTick } from './format';
import type { HeadlineMetric } from './metrics';
import type { Interval } from './period';

export interface Tick {
  index: number;
  label: string;
}

const LABEL_WIDTH_PX = 64;

export function ticksOf(buckets: readonly string[], interval: Interval, width_px: number): Tick[] {
  const room = Math.max(2, Math.floor(width_px / LABEL_WIDTH_PX));
  if (interval === 'hour') {
    const step = [1, 2, 3, 4, 6, 12, 24].find((hours) => buckets.length / hours <= room) ?? 24;
    return pick(buckets, (bucket) => Number(bucket.slice(11, 13)) % step === 0).map(({ index, label: bucket }) => ({
      index,
      // Where a second day begins, its date says so.
      label: bucket.slice(11, 13) === '00' && buckets.length > 25 ? formatTick(bucket.slice(0, 10), 'day') : formatTick(bucket, 'hour'),
    }));
  }
  if (interval === 'week') {
    const firsts = pick(buckets, (bucket, index) => index > 0 && bucket.slice(0, 7) !== buckets[index - 1]?.slice(0, 7));
    const step = Math.ceil(firsts.length / room);
    return firsts.filter((_, order) => order % step === 0).map(({ index, label: bucket }) => ({ index, label: monthLabel(bucket) }));
  }
  const step = Math.ceil(buckets.length / room);
  // Counted from the end: the newest day is the one that is looked for.
  return pick(buckets, (_, index) => (buckets.length - 1 - index) % step === 0).map(({ index, label: bucket }) => ({
    index,
    label: formatTick(bucket, 'day'),
  }));
}

/** Distances between lines that read well: whole visitors, minutes rather than hundreds of seconds. */
export function incrementsOf(metric: HeadlineMetric): number[] {
  if (metric === 'visit_duration') return [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400];
  const decades = Array.from({ length: 13 }, (_, power) => 10 ** power);
  const whole = decades.flatMap((decade) => [decade, 2 * decade, 5 * decade]);
  return metric === 'views_per_visit' ? [0.1, 0.2, 0.5, ...whole] : whole;
}

/** The full name of a bucket, and that it is not over. */
export function bucketTitle(bucket: string, interval: Interval, openBucket: string): string {
  return bucket === openBucket ? `${formatBucket(bucket, interval)} (so far)` : formatBucket(bucket, interval);
}

function pick(buckets: readonly string[], chosen: (bucket: string, index: number) => boolean): Tick[] {
  return buckets.map((label, index) => ({ label, index })).filter(({ label, index }) => chosen(label, index));
}

function monthLabel(day: string): string {
  const instant = Date.parse(`${day}T00:00:00Z`);
  const month = new Intl.DateTimeFormat(undefined, { month: 'short', timeZone: 'UTC' }).format(instant);
  return day.slice(5, 7) === '01' ? `${month} ${day.slice(0, 4)}` : month;
}

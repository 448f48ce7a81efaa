// The lines of the time chart: what is drawn whole, what is dashed because its time is not over, and what not at all.

import type uPlot from 'uplot';
import type { Figure, HeadlineMetric } from './metrics';
import type { Interval } from './period';

export interface Plotted {
  metric: HeadlineMetric;
  interval: Interval;
  buckets: readonly string[];
  values: readonly Figure[];
  /** The bucket that is not over: what leads to it is dashed, what follows it is not drawn. */
  openBucket: string;
  /** The first bucket lacks a part too, and is dashed as well. */
  beginsInside: boolean;
  previousValues: readonly Figure[];
}

/** Index, previous figures, figures of whole buckets, and the dashed lines to those that are not whole. */
export function dataOf({ buckets, values, openBucket, beginsInside, previousValues }: Plotted): uPlot.AlignedData {
  // Labels sort as their times do.
  const past = buckets.filter((bucket) => bucket < openBucket).length;
  const open = buckets[past] === openBucket ? past : -1;
  const first = beginsInside ? 1 : 0;
  const isWhole = (index: number) => index >= first && index < past;
  const isDashed = (index: number) => (open !== -1 && (index === open || index === open - 1)) || (beginsInside && index <= Math.min(1, past - 1));
  return [
    buckets.map((_, index) => index),
    buckets.map((_, index) => previousValues[index] ?? null),
    buckets.map((_, index) => (isWhole(index) ? (values[index] ?? null) : null)),
    buckets.map((_, index) => (isDashed(index) ? (values[index] ?? null) : null)),
  ];
}

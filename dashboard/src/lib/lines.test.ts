import { describe, expect, it } from 'vitest';
import { dataOf } from './lines';

const plotted = { metric: 'visitors', interval: 'day', previousValues: [], beginsInside: false } as const;

describe('the line of the chart', () => {
  it('is dashed to the bucket that is not over and ends there', () => {
    const buckets = ['2026-11-20', '2026-11-21', '2026-11-22', '2026-11-23'];
    const [, , whole, dashed] = dataOf({ ...plotted, buckets, values: [1, 2, 3, 0], openBucket: '2026-11-22', previousValues: [9] });
    expect(whole).toEqual([1, 2, null, null]);
    expect(dashed).toEqual([null, 2, 3, null]);
  });

  it('is whole when the range is over, and absent when it has not begun', () => {
    const buckets = ['2026-11-20', '2026-11-21'];
    expect(dataOf({ ...plotted, buckets, values: [1, 2], openBucket: '2026-11-22' }).slice(2)).toEqual([[1, 2], [null, null]]);
    expect(dataOf({ ...plotted, buckets, values: [0, 0], openBucket: '2026-11-19' }).slice(2)).toEqual([[null, null], [null, null]]);
  });

  it('is a single figure in the first hour of the day', () => {
    const buckets = ['2026-11-22 00:00:00', '2026-11-22 01:00:00'];
    expect(dataOf({ ...plotted, interval: 'hour', buckets, values: [4, 0], openBucket: buckets[0] ?? '' }).slice(2)).toEqual([[null, null], [4, null]]);
  });

  it('is dashed from a week that began before the range', () => {
    const buckets = ['2026-10-29', '2026-11-02', '2026-11-09', '2026-11-16'];
    const data = dataOf({ ...plotted, interval: 'week', buckets, values: [1, 7, 8, 5], openBucket: '2026-11-16', beginsInside: true });
    expect(data.slice(2)).toEqual([[null, 7, 8, null], [1, 7, 8, 5]]);
  });
});

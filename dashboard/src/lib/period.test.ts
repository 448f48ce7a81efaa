import { describe, expect, it } from 'vitest';
import { beginsInside, bucketKey, bucketsOf, comparisonRange, currentBucket, dateRange, intervalOf, isRunning, type Period, periodFromUrl, periodIntoUrl, previousDates } from './period';

// Half past midnight on Monday the 23rd in Berlin, still Sunday the 22nd in New York.
const NOW = new Date('2026-11-22T23:30:40Z');

describe('a period', () => {
  it('ends today on the site\'s clocks', () => {
    expect(dateRange({ kind: 'today' }, NOW, 'Europe/Berlin')).toEqual({ from: '2026-11-23', to: '2026-11-23' });
    expect(dateRange({ kind: 'today' }, NOW, 'America/New_York')).toEqual({ from: '2026-11-22', to: '2026-11-22' });
    expect(dateRange({ kind: '7d' }, NOW, 'America/New_York')).toEqual({ from: '2026-11-16', to: '2026-11-22' });
    expect(dateRange({ kind: '30d' }, NOW, 'America/New_York')).toEqual({ from: '2026-10-24', to: '2026-11-22' });
    expect(dateRange({ kind: '12mo' }, NOW, 'America/New_York')).toEqual({ from: '2025-12-01', to: '2026-11-22' });
  });

  it('survives the URL', () => {
    const periods: Period[] = [{ kind: 'today' }, { kind: '7d' }, { kind: '30d' }, { kind: '12mo' }, { kind: 'custom', from: '2026-01-01', to: '2026-01-31' }];
    for (const period of periods) {
      const parameters = new URLSearchParams();
      periodIntoUrl(period, parameters);
      expect(periodFromUrl(new URLSearchParams(parameters.toString()))).toEqual(period);
    }
  });

  it('is today when the URL names none that exists', () => {
    expect(periodFromUrl(new URLSearchParams('period=yesteryear'))).toEqual({ kind: 'today' });
    expect(periodFromUrl(new URLSearchParams('period=custom&from=2026-02-30&to=2026-03-01'))).toEqual({ kind: 'today' });
    expect(periodFromUrl(new URLSearchParams('period=custom'))).toEqual({ kind: 'today' });
  });

  it('is put in order', () => {
    expect(periodFromUrl(new URLSearchParams('period=custom&from=2026-03-02&to=2026-03-01'))).toEqual({ kind: 'custom', from: '2026-03-01', to: '2026-03-02' });
  });
});

describe('the comparison', () => {
  const compared = (period: Period, now: Date, timezone: string) => comparisonRange(period, dateRange(period, now, timezone), now, timezone);

  it('of today is yesterday up to the same time', () => {
    const noon = new Date('2026-11-22T12:04:30Z');
    expect(compared({ kind: 'today' }, noon, 'Europe/Berlin')).toEqual(['2026-11-21T00:00:00+01:00', '2026-11-21T13:04:00+01:00']);
  });

  it('has the offsets of its own days', () => {
    // Clocks went back on the 25th of October.
    const now = new Date('2026-10-26T11:00:00Z');
    expect(compared({ kind: '7d' }, now, 'Europe/Berlin')).toEqual(['2026-10-13T00:00:00+02:00', '2026-10-19T12:00:00+02:00']);
  });

  it('of days that are over is as many days before', () => {
    const period: Period = { kind: 'custom', from: '2026-03-01', to: '2026-03-31' };
    expect(compared(period, NOW, 'UTC')).toEqual(['2026-01-29', '2026-02-28']);
  });

  it('of days that are partly ahead stops as many days earlier', () => {
    const period: Period = { kind: 'custom', from: '2026-11-20', to: '2026-11-24' };
    expect(compared(period, new Date('2026-11-22T06:00:00Z'), 'UTC')).toEqual(['2026-11-15T00:00:00+00:00', '2026-11-17T06:00:00+00:00']);
  });

  it('of twelve months is the same dates a year ago', () => {
    const period: Period = { kind: '12mo' };
    expect(previousDates(period, dateRange(period, NOW, 'UTC'))).toEqual({ from: '2024-12-01', to: '2025-11-22' });
  });
});

describe('buckets', () => {
  it('are hours, days or weeks by the length of the range', () => {
    expect(intervalOf({ from: '2026-11-22', to: '2026-11-22' })).toBe('hour');
    expect(intervalOf({ from: '2026-11-21', to: '2026-11-22' })).toBe('hour');
    expect(intervalOf({ from: '2026-11-20', to: '2026-11-22' })).toBe('day');
    expect(intervalOf({ from: '2026-11-22', to: '2027-11-22' })).toBe('week');
    expect(bucketsOf({ from: '2026-03-28', to: '2026-03-29' }, 'hour', 'Europe/Berlin')).toHaveLength(47);
    expect(bucketsOf({ from: '2026-11-01', to: '2026-11-30' }, 'day', 'UTC')).toHaveLength(30);
  });

  it('match what the Stats API answers, in either notation', () => {
    expect(bucketKey('2026-11-22 13:00:00', 'hour')).toBe('2026-11-22 13:00:00');
    expect(bucketKey('2026-11-22T13:00:00+01:00', 'hour')).toBe('2026-11-22 13:00:00');
    expect(bucketKey('2026-11-22', 'day')).toBe('2026-11-22');
    expect(bucketKey('2026-11-22T00:00:00Z', 'day')).toBe('2026-11-22');
  });

  it('of weeks begin on Mondays and with the range', () => {
    const range = { from: '2026-10-29', to: '2026-11-22' };
    expect(bucketsOf(range, 'week', 'UTC')).toEqual(['2026-10-29', '2026-11-02', '2026-11-09', '2026-11-16']);
    expect(beginsInside(range, 'week')).toBe(true);
    expect(beginsInside(range, 'day')).toBe(false);
    expect(beginsInside({ from: '2026-11-02', to: '2026-11-22' }, 'week')).toBe(false);
    expect(currentBucket(range, 'week', new Date('2026-10-31T12:00:00Z'), 'UTC')).toBe('2026-10-29');
    expect(currentBucket(range, 'week', new Date('2026-11-22T12:00:00Z'), 'UTC')).toBe('2026-11-16');
  });

  it('know which one is not over', () => {
    const week = { from: '2026-11-16', to: '2026-11-22' };
    expect(currentBucket(week, 'hour', NOW, 'Asia/Kathmandu')).toBe('2026-11-23 05:00:00');
    expect(currentBucket(week, 'day', NOW, 'America/New_York')).toBe('2026-11-22');
    expect(isRunning({ from: '2026-11-16', to: '2026-11-22' }, NOW, 'America/New_York')).toBe(true);
    expect(isRunning({ from: '2026-11-16', to: '2026-11-22' }, NOW, 'Europe/Berlin')).toBe(false);
  });
});

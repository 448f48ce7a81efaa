import { describe, expect, it } from 'vitest';
import { bucketsOf, type Interval } from './period';
import { incrementsOf, ticksOf } from './ticks';

const labels = (buckets: string[], interval: Interval, width_px: number) => ticksOf(buckets, interval, width_px).map(({ label }) => label);

describe('labels of the time axis', () => {
  it('are round hours, as many as there is room for', () => {
    const hours = bucketsOf({ from: '2026-11-22', to: '2026-11-22' }, 'hour', 'UTC');
    expect(labels(hours, 'hour', 300)).toEqual(['00:00', '06:00', '12:00', '18:00']);
    expect(labels(hours, 'hour', 2000)).toHaveLength(24);
  });

  it('name the day where one begins among hours', () => {
    const hours = bucketsOf({ from: '2026-11-21', to: '2026-11-22' }, 'hour', 'UTC');
    expect(labels(hours, 'hour', 300)).toEqual(['Nov 21', '12:00', 'Nov 22', '12:00']);
  });

  it('end with the last day', () => {
    const days = bucketsOf({ from: '2026-11-01', to: '2026-11-30' }, 'day', 'UTC');
    expect(labels(days, 'day', 400)).toEqual(['Nov 5', 'Nov 10', 'Nov 15', 'Nov 20', 'Nov 25', 'Nov 30']);
  });

  it('are months over a long time, with the year where it begins', () => {
    const weeks = bucketsOf({ from: '2025-11-23', to: '2026-11-22' }, 'week', 'UTC');
    expect(labels(weeks, 'week', 1000).slice(0, 3)).toEqual(['Dec', 'Jan 2026', 'Feb']);
    expect(labels(weeks, 'week', 300)).toHaveLength(4);
  });
});

describe('lines of the value axis', () => {
  it('never split a visitor', () => {
    expect(Math.min(...incrementsOf('visitors'))).toBe(1);
    expect(incrementsOf('visit_duration')).toContain(60);
  });
});

import { describe, expect, it } from 'vitest';
import { countryName, formatBucket, formatChange, formatCount, formatDuration, formatMinute, formatPercent, formatShare, formatTick, NO_FIGURE } from './format';
import { changeOf, headlineFigure } from './metrics';

// The page speaks the reader's language; these are run in English (see the script `test`).

describe('figures', () => {
  it('are exact while there is room', () => {
    expect(formatCount(0)).toBe('0');
    expect(formatCount(9_999)).toBe('9,999');
    expect(formatCount(12_345)).toBe('12.3K');
    expect(formatCount(1_234_567)).toBe('1.23M');
    expect(formatCount(null)).toBe(NO_FIGURE);
  });

  it('tell little from nothing', () => {
    expect(formatShare(0)).toBe('0.0%');
    expect(formatShare(0.04)).toBe('<0.1%');
    expect(formatShare(3.26)).toBe('3.3%');
    expect(formatShare(33.4)).toBe('33%');
    expect(formatPercent(null)).toBe(NO_FIGURE);
  });

  it('are durations in the two largest units', () => {
    expect(formatDuration(0)).toBe('0s');
    expect(formatDuration(59.6)).toBe('1m 0s');
    expect(formatDuration(147)).toBe('2m 27s');
    expect(formatDuration(7_260)).toBe('2h 1m');
  });

  it('of no visits are none if they are ratios', () => {
    expect(headlineFigure([0, 0, 0, 0, 0, 0], 'bounce_rate')).toBeNull();
    expect(headlineFigure([0, 0, 0, 0, 0, 0], 'visitors')).toBe(0);
    expect(headlineFigure([9, 10, 20, 2, 0, 30], 'bounce_rate')).toBe(0);
    expect(headlineFigure(undefined, 'pageviews')).toBe(0);
  });

  it('change against something only', () => {
    expect(changeOf('visitors', 150, 100)).toBe(50);
    expect(changeOf('visitors', 50, 100)).toBe(-50);
    expect(changeOf('visitors', 50, 0)).toBeNull();
    expect(changeOf('bounce_rate', null, 10)).toBeNull();
    expect(changeOf('bounce_rate', 48, 41)).toBe(7);
    expect(changeOf('bounce_rate', 48, 0)).toBe(48);
    expect(formatChange(-7, true)).toBe('7 pts');
    expect(formatChange(-12.4)).toBe('12%');
    expect(formatChange(123_456)).toBe('123K%');
  });
});

describe('times', () => {
  it('of buckets are those of their label', () => {
    expect(formatTick('2026-11-22 14:00:00', 'hour')).toBe('14:00');
    expect(formatTick('2026-11-22', 'day')).toBe('Nov 22');
    expect(formatBucket('2026-11-22 23:00:00', 'hour')).toBe('Sun, Nov 22, 23:00–00:00');
    expect(formatBucket('2026-11-22', 'day')).toBe('Sun, Nov 22, 2026');
  });

  it('of minutes are on the site\'s clocks', () => {
    expect(formatMinute('2026-11-22T13:04:00Z', 'Asia/Kathmandu')).toBe('18:49');
  });
});

describe('countries', () => {
  it('have their names, and what is none stays as it is', () => {
    expect(countryName('DE')).toBe('Germany');
    expect(countryName('XX')).toBe('XX');
    expect(countryName('not a code')).toBe('not a code');
  });
});

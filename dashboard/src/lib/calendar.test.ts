import { describe, expect, it } from 'vitest';
import { addDays, addMonths, dayAt, daysBetween, daysOf, hoursOf, instantOf, isDay, localTimestamp } from './calendar';

describe('the date on a site\'s clocks', () => {
  it('is not the reader\'s date', () => {
    const instant = new Date('2026-11-22T23:30:00Z');
    expect(dayAt(instant, 'UTC')).toBe('2026-11-22');
    expect(dayAt(instant, 'Europe/Berlin')).toBe('2026-11-23');
    expect(dayAt(instant, 'America/Los_Angeles')).toBe('2026-11-22');
    expect(dayAt(new Date('2026-11-22T18:20:00Z'), 'Asia/Kathmandu')).toBe('2026-11-23');
  });

  it('comes with the offset of that day', () => {
    expect(localTimestamp(new Date('2026-11-22T12:05:09.700Z'), 'Europe/Berlin')).toBe('2026-11-22T13:05:09+01:00');
    expect(localTimestamp(new Date('2026-07-01T12:00:00Z'), 'Europe/Berlin')).toBe('2026-07-01T14:00:00+02:00');
    expect(localTimestamp(new Date('2026-11-22T12:00:00Z'), 'Asia/Kathmandu')).toBe('2026-11-22T17:45:00+05:45');
    expect(localTimestamp(new Date('2026-11-22T12:00:00Z'), 'America/St_Johns')).toBe('2026-11-22T08:30:00-03:30');
    expect(localTimestamp(new Date('2026-11-22T12:00:00Z'), 'UTC')).toBe('2026-11-22T12:00:00+00:00');
  });
});

describe('the instant of a local time', () => {
  it('is the inverse of the local time', () => {
    for (const timezone of ['UTC', 'Europe/Berlin', 'Asia/Kathmandu', 'Australia/Lord_Howe', 'Pacific/Chatham', 'America/Havana']) {
      for (let hour = 0; hour < 24 * 370; hour += 37) {
        const instant = new Date(Date.UTC(2026, 0, 1, hour, 17));
        const local = localTimestamp(instant, timezone);
        const found = instantOf(local.slice(0, 10), local.slice(11, 19), timezone);
        // Of an hour that comes twice, the first.
        expect(localTimestamp(found, timezone).slice(0, 19)).toBe(local.slice(0, 19));
        expect(instant.getTime() - found.getTime()).toBeGreaterThanOrEqual(0);
      }
    }
  });

  it('lies behind the gap when the clocks skip it', () => {
    expect(instantOf('2026-03-29', '02:30:00', 'Europe/Berlin').toISOString()).toBe('2026-03-29T01:30:00.000Z');
    // Havana's 8 March has no midnight.
    expect(instantOf('2026-03-08', '00:00:00', 'America/Havana').toISOString()).toBe('2026-03-08T05:00:00.000Z');
  });
});

describe('the hours of a day', () => {
  it('are 24, except where the clocks change', () => {
    const hours = (day: string, timezone: string) => hoursOf(day, timezone).map((label) => label.slice(11, 13));
    expect(hoursOf('2026-11-22', 'Asia/Kathmandu')).toHaveLength(24);
    expect(hoursOf('2026-11-22', 'Pacific/Kiritimati')).toHaveLength(24);
    expect(hoursOf('2026-11-22', 'Pacific/Niue')).toHaveLength(24);
    expect(hours('2026-03-29', 'Europe/Berlin')).not.toContain('02');
    expect(hours('2026-03-29', 'Europe/Berlin')).toHaveLength(23);
    // The hour that comes twice has one label, and so one bucket.
    expect(hours('2026-10-25', 'Europe/Berlin')).toHaveLength(24);
    expect(hours('2026-03-08', 'America/Havana')[0]).toBe('01');
    expect(hours('2026-10-04', 'Australia/Lord_Howe')).toHaveLength(24);
  });

  it('are in order and labelled as the Stats API does', () => {
    const hours = hoursOf('2026-11-22', 'America/New_York');
    expect(hours[0]).toBe('2026-11-22 00:00:00');
    expect(hours[23]).toBe('2026-11-22 23:00:00');
    expect([...hours].sort()).toEqual(hours);
  });
});

describe('dates', () => {
  it('are added over months, years and leap days', () => {
    expect(addDays('2026-12-31', 1)).toBe('2027-01-01');
    expect(addDays('2028-03-01', -1)).toBe('2028-02-29');
    expect(addMonths('2026-03-31', -1)).toBe('2026-02-28');
    expect(addMonths('2028-02-29', -12)).toBe('2027-02-28');
    expect(addMonths('2026-11-22', -12)).toBe('2025-11-22');
    expect(addMonths('2026-11-30', 3)).toBe('2027-02-28');
  });

  it('are counted with both ends', () => {
    expect(daysBetween('2026-11-22', '2026-11-22')).toBe(1);
    expect(daysBetween('2026-03-01', '2026-03-31')).toBe(31);
    expect(daysOf('2026-11-30', '2026-12-02')).toEqual(['2026-11-30', '2026-12-01', '2026-12-02']);
    expect(daysOf('2026-12-02', '2026-11-30')).toEqual([]);
  });

  it('exist or are refused', () => {
    expect(isDay('2026-02-28')).toBe(true);
    expect(isDay('2026-02-30')).toBe(false);
    expect(isDay('2026-2-3')).toBe(false);
    expect(isDay('2026-11-22T00:00')).toBe(false);
    expect(isDay(null)).toBe(false);
  });
});

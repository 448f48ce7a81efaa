import { describe, expect, it } from 'vitest';
import { type Filter, filtersFromUrl, filtersIntoQuery, filtersIntoUrl, isFiltered, toggleFilter, withoutFilter } from './filters';

const FILTERS: Filter[] = [
  { dimension: 'source', values: ['Google', 'a&b=c #ü'] },
  { dimension: 'entry_page', values: ['/products?x=1'] },
  { dimension: 'country', values: ['DE'] },
];

describe('filters', () => {
  it('survive the URL, whatever is in their values', () => {
    const parameters = new URLSearchParams();
    filtersIntoUrl(FILTERS, parameters);
    expect(filtersFromUrl(new URLSearchParams(parameters.toString()))).toEqual(FILTERS);
  });

  it('can ask for visits without a value', () => {
    const direct: Filter[] = [{ dimension: 'source', values: [''] }];
    const parameters = new URLSearchParams();
    filtersIntoUrl(direct, parameters);
    expect(parameters.toString()).toBe('source=');
    expect(filtersFromUrl(parameters)).toEqual(direct);
    expect(filtersFromUrl(new URLSearchParams(''))).toEqual([]);
  });

  it('ignore what is no dimension and what is said twice', () => {
    expect(filtersFromUrl(new URLSearchParams('site=shop&planet=Mars&os=iOS&os=iOS'))).toEqual([{ dimension: 'os', values: ['iOS'] }]);
  });

  it('become those of the Stats API', () => {
    expect(filtersIntoQuery(FILTERS.slice(0, 1))).toEqual([['is', 'visit:source', ['Google', 'a&b=c #ü']]]);
  });

  it('are added as alternatives and taken away again', () => {
    const germany = toggleFilter([], 'country', 'DE');
    const both = toggleFilter(germany, 'country', 'FR');
    expect(both).toEqual([{ dimension: 'country', values: ['DE', 'FR'] }]);
    expect(isFiltered(both, 'country', 'FR')).toBe(true);
    expect(isFiltered(both, 'source', 'FR')).toBe(false);
    expect(toggleFilter(toggleFilter(both, 'country', 'FR'), 'country', 'DE')).toEqual([]);
    expect(withoutFilter(FILTERS, 'source').map(({ dimension }) => dimension)).toEqual(['entry_page', 'country']);
  });

  it('have one order, however they were clicked', () => {
    const one = toggleFilter(toggleFilter([], 'device', 'Mobile'), 'source', 'Google');
    const other = toggleFilter(toggleFilter([], 'source', 'Google'), 'device', 'Mobile');
    expect(one).toEqual(other);
  });
});

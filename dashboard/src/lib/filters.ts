// Filters on dimensions of the visit. In the URL each dimension is a parameter of its own name, repeated for
// alternatives: `?country=DE&country=FR&source=Google` is (Germany or France) and Google.

import { VISIT_DIMENSIONS, type VisitDimension } from './dimensions';

export interface Filter {
  dimension: VisitDimension;
  /** Any of these; never empty. */
  values: string[];
}

/** As the Stats API takes it. */
export type QueryFilter = ['is', `visit:${VisitDimension}`, string[]] | ['is_not', 'event:name', string[]];

export function filtersFromUrl(parameters: URLSearchParams): Filter[] {
  return VISIT_DIMENSIONS.map((dimension) => ({ dimension, values: [...new Set(parameters.getAll(dimension))] })).filter(
    ({ values }) => values.length > 0,
  );
}

export function filtersIntoUrl(filters: Filter[], parameters: URLSearchParams): void {
  for (const { dimension, values } of filters) {
    for (const value of values) parameters.append(dimension, value);
  }
}

export function filtersIntoQuery(filters: Filter[]): QueryFilter[] {
  return filters.map(({ dimension, values }) => ['is', `visit:${dimension}`, values]);
}

export function isFiltered(filters: Filter[], dimension: VisitDimension, value: string): boolean {
  return filters.some((filter) => filter.dimension === dimension && filter.values.includes(value));
}

/** Adds the value as an alternative, or takes it away if it is there. Filters stay in one order, so URLs do. */
export function toggleFilter(filters: Filter[], dimension: VisitDimension, value: string): Filter[] {
  const before = filters.find((filter) => filter.dimension === dimension)?.values ?? [];
  const values = before.includes(value) ? before.filter((each) => each !== value) : [...before, value];
  const others = filters.filter((filter) => filter.dimension !== dimension);
  if (values.length === 0) return others;
  return [...others, { dimension, values }].sort(
    (a, b) => VISIT_DIMENSIONS.indexOf(a.dimension) - VISIT_DIMENSIONS.indexOf(b.dimension),
  );
}

export function withoutFilter(filters: Filter[], dimension: VisitDimension): Filter[] {
  return filters.filter((filter) => filter.dimension !== dimension);
}

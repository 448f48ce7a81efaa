// What is looked at: site, period, filters and the charted metric. All of it lives in the URL, so that a view can be
// bookmarked, shared, and left with the back button.

import { type Filter, filtersFromUrl, filtersIntoUrl } from './filters';
import { type HeadlineMetric, metricFromUrl, metricIntoUrl } from './metrics';
import { type Period, periodFromUrl, periodIntoUrl } from './period';

class View {
  siteId = $state('');
  period = $state.raw<Period>({ kind: 'today' });
  filters = $state.raw<Filter[]>([]);
  metric = $state<HeadlineMetric>('visitors');

  constructor() {
    this.#read();
    addEventListener('popstate', () => this.#read());
  }

  /** Changes the view and makes it an entry of the history. */
  show(change: Partial<Pick<View, 'siteId' | 'period' | 'filters' | 'metric'>>): void {
    Object.assign(this, change);
    const url = this.#url();
    if (url !== location.pathname + location.search) history.pushState(null, '', url);
  }

  #read(): void {
    const parameters = new URLSearchParams(location.search);
    this.siteId = parameters.get('site') ?? '';
    this.period = periodFromUrl(parameters);
    this.filters = filtersFromUrl(parameters);
    this.metric = metricFromUrl(parameters);
  }

  #url(): string {
    const parameters = new URLSearchParams();
    if (this.siteId !== '') parameters.set('site', this.siteId);
    periodIntoUrl(this.period, parameters);
    filtersIntoUrl(this.filters, parameters);
    metricIntoUrl(this.metric, parameters);
    const query = parameters.toString();
    return query === '' ? '/' : `/?${query}`;
  }
}

export const view = new View();

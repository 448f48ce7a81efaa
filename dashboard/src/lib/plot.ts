// The uPlot instance behind the time chart. It is made once per colour scheme and container; new figures only replace
// its data.

import uPlot from 'uplot';
import { dataOf, type Plotted } from './lines';
import { METRICS } from './metrics';
import { incrementsOf, ticksOf } from './ticks';

export interface PlotEvents {
  /** The pointer is at a bucket, `left_px` from the left edge of the container; or nowhere. */
  pointed: (index: number | null, left_px: number) => void;
  /** A stretch of buckets was drawn with the pointer. */
  selected: (from: number, to: number) => void;
}

const HEIGHT_PX = 296;
const MIN_SELECTION_PX = 12;

/** `plotted` is read whenever the chart is drawn; it must be what was last given to `setData`. */
export function createPlot(container: HTMLElement, plotted: () => Plotted, events: PlotEvents): uPlot {
  const color = (name: string) => getComputedStyle(container).getPropertyValue(name).trim();
  const axis = {
    stroke: color('--muted'),
    font: '12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif',
    ticks: { show: false },
  };
  // A lone figure makes no line: the first hour of the day is a point.
  const alone = (self: uPlot, series: number) => Array.from(self.data[series] ?? []).filter((value) => value !== null).length === 1;
  const line = { stroke: color('--accent'), width: 2, points: { show: alone, size: 8, fill: color('--accent') } };
  const plot = new uPlot(
    {
      width: container.clientWidth,
      height: HEIGHT_PX,
      padding: [18, 28, 0, 6],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        points: { size: 9, width: 2, fill: color('--card'), stroke: (_, series) => color(series === 1 ? '--ghost' : '--accent') },
      },
      scales: {
        x: { time: false, range: (_, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) },
        y: { range: (_, __, max) => [0, max > 0 ? max * 1.08 : 1] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 34,
          gap: 8,
          splits: (self) => ticks(self).map(({ index }) => index),
          values: (self) => ticks(self).map(({ label }) => label),
        },
        {
          ...axis,
          grid: { stroke: color('--line'), width: 1 },
          gap: 8,
          space: 48,
          size: (_, values) => 22 + 7 * Math.max(0, ...(values ?? []).map((value) => value.length)),
          incrs: () => incrementsOf(plotted().metric),
          values: (_, splits) => splits.map((value) => METRICS[plotted().metric].format(value)),
        },
      ],
      series: [
        {},
        { stroke: color('--ghost'), width: 1.5, points: { show: false } },
        { ...line, fill: color('--accent-area') },
        { ...line, dash: [5, 5] },
      ],
      hooks: {
        setCursor: [
          (self) => {
            const index = self.cursor.idx ?? null;
            events.pointed(index, index === null ? 0 : self.valToPos(index, 'x') + self.bbox.left / devicePixelRatio);
          },
        ],
        setSelect: [
          (self) => {
            const { left, width } = self.select;
            if (width < MIN_SELECTION_PX) return;
            self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            events.selected(Math.ceil(self.posToVal(left, 'x')), Math.floor(self.posToVal(left + width, 'x')));
          },
        ],
      },
    },
    dataOf(plotted()),
    container,
  );

  function ticks(self: uPlot) {
    const { buckets, interval } = plotted();
    return ticksOf(buckets, interval, self.bbox.width / devicePixelRatio);
  }
  return plot;
}

export function resizePlot(plot: uPlot, width_px: number): void {
  plot.setSize({ width: width_px, height: HEIGHT_PX });
}

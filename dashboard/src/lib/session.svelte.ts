// Who is looking, and which sites they see.

import { fetchMe, fetchSites, signOut, SignedOutError, type Site } from './api';

class Session {
  state = $state<'opening' | 'signed_in' | 'signed_out' | 'unreachable'>('opening');
  name = $state('');
  sites = $state<Site[]>([]);
  message = $state('');

  async open(): Promise<void> {
    try {
      const [me, sites] = await Promise.all([fetchMe(), fetchSites()]);
      this.name = me.name;
      this.sites = sites;
      this.state = 'signed_in';
    } catch (error) {
      if (error instanceof SignedOutError) return this.end();
      this.message = error instanceof Error ? error.message : String(error);
      this.state = 'unreachable';
    }
  }

  /** The cookie is no longer good. */
  end(): void {
    this.state = 'signed_out';
    this.sites = [];
  }

  async signOut(): Promise<void> {
    await signOut();
    this.end();
  }

  /** The site's first event was seen: it needs its snippet no more. */
  markAlive(siteId: string): void {
    const site = this.sites.find((each) => each.site_id === siteId);
    if (site !== undefined && site.first_event_at === null) site.first_event_at = new Date().toISOString();
  }
}

export const session = new Session();

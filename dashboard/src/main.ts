// From a session to a report: App asks who is signed in (session), the URL says what is looked at (view), Report asks
// central for it (api, answer) and LiveFeed tells when to ask again.

import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';

const target = document.getElementById('app');
if (target === null) throw new Error('index.html has no element with the id "app"');

export default mount(App, { target });

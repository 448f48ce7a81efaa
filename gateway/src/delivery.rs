//! An accepted record, until nobody needs it any more. [`log`] makes it durable, [`apply`] counts it in the regional Redis, [`answer`]
//! tells the agent. Afterwards: [`outcomes`] keeps what Redis decided, [`progress`] how far each record has come, [`raw`] ships it over
//! the [`uplink`], [`trim`] forgets it. [`folder`] is where all of it lies, [`processes`] tells who wrote there.

pub mod answer;
pub mod apply;
pub mod folder;
pub mod log;
pub mod outcomes;
pub mod processes;
pub mod progress;
pub mod raw;
pub mod trim;
pub mod uplink;

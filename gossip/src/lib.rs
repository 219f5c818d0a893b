mod document;
mod documents;
mod identity;
mod journal;
mod names;
mod overlay;
mod quarantine;
mod stored;

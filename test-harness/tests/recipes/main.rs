//! The pages of docs/recipes/: what stands in their blocks is what runs here, in real Envoys, with clients of that kind.

#[path = "../support/mod.rs"]
mod support;

mod backends;
mod browsers;
mod moving;
mod page;
mod pages;
mod sharing;
mod story;

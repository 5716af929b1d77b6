//! Properties of the store as a whole: writer, region and reader together.

mod crash;
mod damage;
mod fence;
mod follow;
mod limits;
mod orderings;
mod pairing;
mod support;

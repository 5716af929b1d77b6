//! The pipeline as a black box: frames in, frames, events and counters out.

mod advertise;
mod arp;
mod deadline;
mod distribute;
mod esp;
mod fuzz;
mod hand_over;
mod ike;
mod inside;
mod loops;
mod parking;
mod peer;
mod scene;

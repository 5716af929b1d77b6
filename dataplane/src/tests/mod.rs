//! The pipeline as a black box: frames in, frames, events and counters out.

mod advertise;
mod arp;
mod clear;
mod crew;
mod deadline;
mod distribute;
mod dual_stack;
mod esp;
mod forwarding;
mod fragments;
mod fuzz;
mod hand_over;
mod ike;
mod inside;
mod lifetime;
mod lookaside;
mod loops;
mod mtu;
mod ndp;
mod parking;
mod peer;
mod policy;
mod scapy;
mod scene;
mod several;
mod transport;

//! A whole daemon in the test's process, asked over its public ports.

mod embedding;
mod lifecycle;
mod limits;
mod maintenance;
mod ports;
mod put_stream;
mod rest;
mod running;
mod services;
mod texts;

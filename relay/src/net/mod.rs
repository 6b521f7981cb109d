//! Bytes to and from the network; knows no SIP.

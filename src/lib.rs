//! gatewarp

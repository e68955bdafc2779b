//! Stand-ins for the world around leases.

//! Virtual devices, attached by DPDK's device string: a name, then arguments, all separated by commas.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use vipsec_dpdk_sys as sys;

use crate::eal::{Eal, EalInner};
use crate::errno::Errno;
use crate::netdev;

/// The device string leads to no device.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Not `name` or `name,key=value,…`.
    #[error("\"{0}\" is no device string: a name, then key=value arguments, separated by commas")]
    Malformed(String),
    /// A network interface that an argument names isn't there.
    #[error("{device}: there is no network interface \"{interface}\" here")]
    NoSuchInterface {
        /// The device's name.
        device: String,
        /// The interface's.
        interface: String,
    },
    /// A capture file that an argument names can't be read.
    #[error("{device}: there is no capture file {}", path.display())]
    NoSuchCapture {
        /// The device's name.
        device: String,
        /// The file.
        path: PathBuf,
    },
    /// A ring's arguments are addresses of rings in this process, which no text can vouch for.
    #[error("{0}: a ring takes no arguments")]
    RingArguments(String),
    /// A device of that name is attached already.
    #[error("{0}: a device of that name is in use")]
    InUse(String),
    /// DPDK refused: no driver of that kind for the name, arguments that the driver doesn't know, or no permission. More on stderr.
    #[error("DPDK refuses the device \"{device}\": {errno}; its own message is on stderr")]
    Refused {
        /// The whole device string.
        device: String,
        /// Why.
        errno: Errno,
    },
}

/// An attached virtual device of one kind. Dropping it closes and detaches the device.
#[derive(Debug)]
pub(crate) struct Device<K: Kind> {
    /// Up to the first comma of the device string.
    pub(crate) name: String,
    c_name: CString,
    /// DPDK's number of the device among those of its kind.
    pub(crate) id: K::Id,
    /// Is all of its input the content of capture files, which end?
    pub(crate) input_is_finite: bool,
    eal: Arc<EalInner>,
}

/// What a device is for. DPDK numbers each kind by itself.
pub(crate) trait Kind {
    type Id: Copy + Default + std::fmt::Debug;

    /// The device of that name, once it is attached.
    fn find(name: &CStr) -> Result<Self::Id, Errno>;
}

/// An Ethernet port.
#[derive(Debug)]
pub(crate) struct Ethernet;

impl Kind for Ethernet {
    type Id = u16;

    fn find(name: &CStr) -> Result<u16, Errno> {
        let mut port = 0;
        // SAFETY: a C string, and room for the answer.
        Errno::check(unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) }).map(|_| port)
    }
}

/// A device that encrypts and decrypts.
#[derive(Debug)]
pub(crate) struct Crypto;

impl Kind for Crypto {
    type Id = u8;

    fn find(name: &CStr) -> Result<u8, Errno> {
        // SAFETY: a C string.
        let id = unsafe { sys::rte_cryptodev_get_dev_id(name.as_ptr()) };
        u8::try_from(id).map_err(|_| Errno(libc::ENODEV))
    }
}

const BUS: &CStr = c"vdev";

impl<K: Kind> Device<K> {
    pub(crate) fn attach(eal: &Eal, device: &str) -> Result<Self, DeviceError> {
        let malformed = || DeviceError::Malformed(device.to_owned());
        let (name, arguments) = parse(device).ok_or_else(malformed)?;
        check_arguments(name, &arguments)?;
        let c_name = CString::new(name).map_err(|_| malformed())?;
        let after_name = device.get(name.len()..).unwrap_or_default().trim_start_matches(',');
        let c_arguments = CString::new(after_name).map_err(|_| malformed())?;

        let refused = |errno| match errno {
            Errno(libc::EEXIST) => DeviceError::InUse(name.to_owned()),
            errno => DeviceError::Refused { device: device.to_owned(), errno },
        };
        {
            let _one_at_a_time = eal.inner.hotplug.lock();
            if K::find(&c_name).is_ok() {
                return Err(DeviceError::InUse(name.to_owned()));
            }
            // SAFETY: the EAL is started; DPDK copies the C strings.
            Errno::check(unsafe { sys::rte_eal_hotplug_add(BUS.as_ptr(), c_name.as_ptr(), c_arguments.as_ptr()) })
                .map_err(refused)?;
        }
        // From here on, dropping it detaches the device: also if it turns out to be none of its kind.
        let mut attached = Self {
            name: name.to_owned(),
            c_name,
            id: K::Id::default(),
            input_is_finite: input_is_finite(name, &arguments),
            eal: eal.inner.clone(),
        };
        attached.id = K::find(&attached.c_name).map_err(refused)?;
        Ok(attached)
    }
}

impl<K: Kind> Drop for Device<K> {
    fn drop(&mut self) {
        let _one_at_a_time = self.eal.hotplug.lock();
        // SAFETY: the EAL lives; the device is stopped by now, and nobody uses it any more: its owner and the queues own this.
        let result = unsafe { sys::rte_eal_hotplug_remove(BUS.as_ptr(), self.c_name.as_ptr()) };
        if let Err(error) = Errno::check(result) {
            tracing::warn!(device = self.name, %error, "the device can't be detached");
        }
    }
}

/// Name and `key=value` arguments.
fn parse(device: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let mut parts = device.split(',');
    let name = parts.next().filter(|name| !name.is_empty() && !name.contains(['=', ' ']))?;
    let arguments = parts.map(|part| part.split_once('=').filter(|(key, _)| !key.is_empty()));
    Some((name, arguments.collect::<Option<_>>()?))
}

/// Drivers name what is missing only on stderr, if at all, and with a return code that says nothing. So look first.
fn check_arguments(name: &str, arguments: &[(&str, &str)]) -> Result<(), DeviceError> {
    if name.starts_with("net_ring") && !arguments.is_empty() {
        return Err(DeviceError::RingArguments(name.to_owned()));
    }
    let interface_keys: &[&str] = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "net_af_packet" | "net_af_xdp" => &["iface"],
        "net_pcap" => &["iface", "rx_iface", "rx_iface_in", "tx_iface"],
        _ => &[],
    };
    for &(key, value) in arguments {
        if interface_keys.contains(&key) && !netdev::exists(value) {
            return Err(DeviceError::NoSuchInterface { device: name.to_owned(), interface: value.to_owned() });
        }
        if key == "rx_pcap" && !Path::new(value).is_file() {
            return Err(DeviceError::NoSuchCapture { device: name.to_owned(), path: value.into() });
        }
    }
    Ok(())
}

fn input_is_finite(name: &str, arguments: &[(&str, &str)]) -> bool {
    let has = |key: &str| arguments.iter().any(|&(k, _)| k == key);
    let repeats = arguments.iter().any(|&(key, value)| key == "infinite_rx" && value != "0");
    name.starts_with("net_pcap") && has("rx_pcap") && !repeats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_strings() {
        assert_eq!(parse("net_ring0"), Some(("net_ring0", vec![])));
        assert_eq!(
            parse("net_pcap0,rx_pcap=/tmp/a=b.pcap,infinite_rx=1"),
            Some(("net_pcap0", vec![("rx_pcap", "/tmp/a=b.pcap"), ("infinite_rx", "1")]))
        );
        for malformed in ["", ",iface=lo", "iface=lo", "net_ring0,", "net_ring0,iface", "net_ring0,=lo", "net ring0"] {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn only_a_capture_read_once_is_finite() {
        for (device, finite) in [
            ("net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap", true),
            ("net_pcap0,rx_pcap=in.pcap,infinite_rx=1", false),
            ("net_pcap0,rx_iface=eth0,tx_pcap=out.pcap", false),
            ("net_pcap0,tx_pcap=out.pcap", false),
            ("net_af_packet0,iface=eth0", false),
        ] {
            let (name, arguments) = parse(device).unwrap();
            assert_eq!(input_is_finite(name, &arguments), finite, "{device}");
        }
    }
}

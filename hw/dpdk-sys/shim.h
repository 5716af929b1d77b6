/* What bindgen can't see in DPDK's headers: static inline functions, a thread-local behind a macro, and flags made of RTE_BIT64. */
#ifndef VIPSEC_DPDK_SHIM_H
#define VIPSEC_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_crypto.h>
#include <rte_cryptodev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_security.h>
#include <rte_version.h>

int shim_rte_errno(void);
unsigned int shim_rte_lcore_id(void);
/* DPDK logs to stdout unless told otherwise. */
int shim_log_to_stderr(void);

struct rte_mbuf *shim_rte_pktmbuf_alloc(struct rte_mempool *pool);
void shim_rte_pktmbuf_free(struct rte_mbuf *mbuf);
int shim_rte_pktmbuf_linearize(struct rte_mbuf *mbuf);
uint16_t shim_rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shim_rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

int shim_rte_crypto_op_bulk_alloc(struct rte_mempool *pool, struct rte_crypto_op **ops, uint16_t count);
uint16_t shim_rte_cryptodev_enqueue_burst(uint8_t device, uint16_t queue, struct rte_crypto_op **ops, uint16_t count);
uint16_t shim_rte_cryptodev_dequeue_burst(uint8_t device, uint16_t queue, struct rte_crypto_op **ops, uint16_t count);

/* Where the symmetric part of an operation begins, and behind it the caller's own data. */
static const uint32_t SHIM_CRYPTO_OP_SYM_OFFSET = offsetof(struct rte_crypto_op, sym);
static const uint32_t SHIM_CRYPTO_OP_OWN_OFFSET = offsetof(struct rte_crypto_op, sym) + sizeof(struct rte_crypto_sym_op);
static const uint64_t SHIM_RTE_CRYPTODEV_FF_HW_ACCELERATED = RTE_CRYPTODEV_FF_HW_ACCELERATED;

static const uint64_t SHIM_RTE_ETH_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t SHIM_RTE_ETH_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t SHIM_RTE_ETH_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t SHIM_RTE_ETH_RSS_ESP = RTE_ETH_RSS_ESP;
static const uint64_t SHIM_RTE_ETH_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_RTE_ETH_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_RTE_ETH_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_RTE_ETH_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_RTE_ETH_RX_OFFLOAD_SECURITY = RTE_ETH_RX_OFFLOAD_SECURITY;
static const uint64_t SHIM_RTE_ETH_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_RTE_ETH_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_RTE_ETH_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_RTE_ETH_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t SHIM_RTE_ETH_TX_OFFLOAD_SECURITY = RTE_ETH_TX_OFFLOAD_SECURITY;
static const uint64_t SHIM_RTE_MBUF_F_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t SHIM_RTE_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;
static const uint32_t SHIM_LCORE_ID_ANY = LCORE_ID_ANY;

#endif

#include "shim.h"

int shim_rte_errno(void) { return rte_errno; }

unsigned int shim_rte_lcore_id(void) { return rte_lcore_id(); }

int shim_log_to_stderr(void) { return rte_openlog_stream(stderr); }

struct rte_mbuf *shim_rte_pktmbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

/* Out of line, so that the ordinary case below needs no stack frame. */
static __rte_cold __rte_noinline void free_chain(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

void shim_rte_pktmbuf_free(struct rte_mbuf *mbuf)
{
	if (likely(RTE_MBUF_DIRECT(mbuf) && rte_mbuf_refcnt_read(mbuf) == 1 && mbuf->next == NULL && mbuf->nb_segs == 1))
		rte_mbuf_raw_free(mbuf);
	else
		free_chain(mbuf);
}

int shim_rte_pktmbuf_linearize(struct rte_mbuf *mbuf) { return rte_pktmbuf_linearize(mbuf); }

uint16_t shim_rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t shim_rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

int shim_rte_crypto_op_bulk_alloc(struct rte_mempool *pool, struct rte_crypto_op **ops, uint16_t count)
{
	return rte_crypto_op_bulk_alloc(pool, RTE_CRYPTO_OP_TYPE_SYMMETRIC, ops, count);
}

uint16_t shim_rte_cryptodev_enqueue_burst(uint8_t device, uint16_t queue, struct rte_crypto_op **ops, uint16_t count)
{
	return rte_cryptodev_enqueue_burst(device, queue, ops, count);
}

uint16_t shim_rte_cryptodev_dequeue_burst(uint8_t device, uint16_t queue, struct rte_crypto_op **ops, uint16_t count)
{
	return rte_cryptodev_dequeue_burst(device, queue, ops, count);
}

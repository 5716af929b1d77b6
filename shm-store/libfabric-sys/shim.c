#include "shim.h"

struct fi_info *shim_fi_allocinfo(void) { return fi_allocinfo(); }
int shim_fi_close(struct fid *fid) { return fi_close(fid); }

int shim_fi_domain(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **domain)
{
	return fi_domain(fabric, info, domain, NULL);
}

int shim_fi_eq_open(struct fid_fabric *fabric, struct fi_eq_attr *attr, struct fid_eq **eq)
{
	return fi_eq_open(fabric, attr, eq, NULL);
}

ssize_t shim_fi_eq_sread(struct fid_eq *eq, uint32_t *event, void *buf, size_t len, int timeout_ms)
{
	return fi_eq_sread(eq, event, buf, len, timeout_ms, 0);
}

ssize_t shim_fi_eq_read(struct fid_eq *eq, uint32_t *event, void *buf, size_t len)
{
	return fi_eq_read(eq, event, buf, len, 0);
}

ssize_t shim_fi_eq_readerr(struct fid_eq *eq, struct fi_eq_err_entry *entry) { return fi_eq_readerr(eq, entry, 0); }

int shim_fi_passive_ep(struct fid_fabric *fabric, struct fi_info *info, struct fid_pep **pep)
{
	return fi_passive_ep(fabric, info, pep, NULL);
}

int shim_fi_pep_bind(struct fid_pep *pep, struct fid *fid) { return fi_pep_bind(pep, fid, 0); }
int shim_fi_listen(struct fid_pep *pep) { return fi_listen(pep); }
int shim_fi_reject(struct fid_pep *pep, fid_t handle) { return fi_reject(pep, handle, NULL, 0); }

int shim_fi_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep)
{
	return fi_endpoint(domain, info, ep, NULL);
}

int shim_fi_ep_bind(struct fid_ep *ep, struct fid *fid, uint64_t flags) { return fi_ep_bind(ep, fid, flags); }
int shim_fi_enable(struct fid_ep *ep) { return fi_enable(ep); }

int shim_fi_connect(struct fid_ep *ep, const void *address, const void *param, size_t len)
{
	return fi_connect(ep, address, param, len);
}

int shim_fi_accept(struct fid_ep *ep, const void *param, size_t len) { return fi_accept(ep, param, len); }
int shim_fi_getname(struct fid *fid, void *address, size_t *len) { return fi_getname(fid, address, len); }

int shim_fi_cq_open(struct fid_domain *domain, struct fi_cq_attr *attr, struct fid_cq **cq)
{
	return fi_cq_open(domain, attr, cq, NULL);
}

ssize_t shim_fi_cq_read(struct fid_cq *cq, void *entries, size_t count) { return fi_cq_read(cq, entries, count); }

ssize_t shim_fi_cq_sread(struct fid_cq *cq, void *entries, size_t count, int timeout_ms)
{
	return fi_cq_sread(cq, entries, count, NULL, timeout_ms);
}

ssize_t shim_fi_cq_readerr(struct fid_cq *cq, struct fi_cq_err_entry *entry) { return fi_cq_readerr(cq, entry, 0); }

int shim_fi_mr_reg(struct fid_domain *domain, const void *start, size_t len, uint64_t access, uint64_t key, struct fid_mr **mr)
{
	return fi_mr_reg(domain, start, len, access, 0, key, 0, mr, NULL);
}

uint64_t shim_fi_mr_key(struct fid_mr *mr) { return fi_mr_key(mr); }
void *shim_fi_mr_desc(struct fid_mr *mr) { return fi_mr_desc(mr); }

ssize_t shim_fi_writemsg(struct fid_ep *ep, const struct fi_msg_rma *message, uint64_t flags)
{
	return fi_writemsg(ep, message, flags);
}

ssize_t shim_fi_read(struct fid_ep *ep, void *into, size_t len, void *desc, uint64_t at, uint64_t key, void *context)
{
	return fi_read(ep, into, len, desc, 0, at, key, context);
}

uint32_t shim_fi_version(void) { return FI_VERSION(1, 17); }

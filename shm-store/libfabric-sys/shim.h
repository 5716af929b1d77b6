/* What bindgen reads. libfabric's calls are static inlines that go through tables of the object at hand; each gets a function
 * of its own here. Nothing is decided in the shim. */
#pragma once

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

struct fi_info *shim_fi_allocinfo(void);
int shim_fi_close(struct fid *fid);

int shim_fi_domain(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **domain);
int shim_fi_eq_open(struct fid_fabric *fabric, struct fi_eq_attr *attr, struct fid_eq **eq);
ssize_t shim_fi_eq_sread(struct fid_eq *eq, uint32_t *event, void *buf, size_t len, int timeout_ms);
ssize_t shim_fi_eq_read(struct fid_eq *eq, uint32_t *event, void *buf, size_t len);
ssize_t shim_fi_eq_readerr(struct fid_eq *eq, struct fi_eq_err_entry *entry);

int shim_fi_passive_ep(struct fid_fabric *fabric, struct fi_info *info, struct fid_pep **pep);
int shim_fi_pep_bind(struct fid_pep *pep, struct fid *fid);
int shim_fi_listen(struct fid_pep *pep);
int shim_fi_reject(struct fid_pep *pep, fid_t handle);

int shim_fi_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep);
int shim_fi_ep_bind(struct fid_ep *ep, struct fid *fid, uint64_t flags);
int shim_fi_enable(struct fid_ep *ep);
int shim_fi_connect(struct fid_ep *ep, const void *address, const void *param, size_t len);
int shim_fi_accept(struct fid_ep *ep, const void *param, size_t len);
int shim_fi_getname(struct fid *fid, void *address, size_t *len);

int shim_fi_cq_open(struct fid_domain *domain, struct fi_cq_attr *attr, struct fid_cq **cq);
ssize_t shim_fi_cq_read(struct fid_cq *cq, void *entries, size_t count);
ssize_t shim_fi_cq_sread(struct fid_cq *cq, void *entries, size_t count, int timeout_ms);
ssize_t shim_fi_cq_readerr(struct fid_cq *cq, struct fi_cq_err_entry *entry);

int shim_fi_mr_reg(struct fid_domain *domain, const void *start, size_t len, uint64_t access, uint64_t key, struct fid_mr **mr);
uint64_t shim_fi_mr_key(struct fid_mr *mr);
void *shim_fi_mr_desc(struct fid_mr *mr);

ssize_t shim_fi_writemsg(struct fid_ep *ep, const struct fi_msg_rma *message, uint64_t flags);
ssize_t shim_fi_read(struct fid_ep *ep, void *into, size_t len, void *desc, uint64_t at, uint64_t key, void *context);

uint32_t shim_fi_version(void);

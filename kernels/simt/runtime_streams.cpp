// The CUDA runtime's streams, events and graphs. What is submitted to a stream is done at once; while
// one is captured it is kept, in its order, which is one that a graph may run in.
#include "runtime.h"

#include <algorithm>

using namespace simt;

struct CUgraphNode_st {
    cudaGraphNodeType type;
    Work work;
    std::vector<cudaGraphNode_t> after;
};

struct CUgraph_st {
    std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};

// Nodes in an order that they can be run in, and what each is made of.
struct CUgraphExec_st {
    std::vector<std::pair<cudaGraphNode_t, CUgraphNode_st>> nodes;
};

struct CUstream_st {
    unsigned flags;
    int priority;
    std::shared_ptr<CUgraph_st> captured;  // of a stream that is
    bool begun_here;                       // and not by an event
};

struct CUevent_st {
    unsigned flags;
    bool recorded;
    double time;
    std::shared_ptr<CUgraph_st> captured;  // in a stream that was
};

namespace {

std::vector<cudaStream_t> &streams() {
    static std::vector<cudaStream_t> &streams = *new std::vector<cudaStream_t>;
    return streams;
}

// Neither of these is an object.
bool is_default(cudaStream_t stream) {
    return !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

bool is_known(cudaStream_t stream) {
    const auto &all = streams();
    return is_default(stream) || std::find(all.begin(), all.end(), stream) != all.end();
}

bool is_captured(cudaStream_t stream) {
    return !is_default(stream) && stream->captured;
}

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t add(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                size_t count, cudaGraphNodeType type, Work work) {
    if (!graph || !node || (count > 0 && !after))
        return fail(cudaErrorInvalidValue);
    graph->nodes.emplace_back(
        new CUgraphNode_st{type, std::move(work), {after, after + count}});
    *node = graph->nodes.back().get();
    return cudaSuccess;
}

// Nodes behind those that they come after; fewer if they wait for one another.
std::vector<cudaGraphNode_t> in_order(const CUgraph_st &graph) {
    std::vector<cudaGraphNode_t> order;
    const auto has = [&](cudaGraphNode_t node) {
        return std::find(order.begin(), order.end(), node) != order.end();
    };
    for (size_t before = 1; before != order.size();) {
        before = order.size();
        for (const auto &node : graph.nodes)
            if (!has(node.get()) && std::all_of(node->after.begin(), node->after.end(), has))
                order.push_back(node.get());
        if (order.size() == graph.nodes.size())
            break;
    }
    return order;
}

cudaError_t run(const CUgraphExec_st &exec) {
    for (const auto &[_, node] : exec.nodes)
        if (const cudaError_t error = node.work())
            return error;
    return cudaSuccess;
}

bool instantiate(CUgraphExec_st &exec, const CUgraph_st &graph) {
    for (const cudaGraphNode_t node : in_order(graph))
        exec.nodes.emplace_back(node, *node);
    return exec.nodes.size() == graph.nodes.size();
}

// A launch as a node has it, with the arguments as they are now.
bool launch(const cudaKernelNodeParams &p, Work &work) {
    const ProgramKernel *const kernel = kernel_at(p.func);
    if (!kernel || p.extra)
        return false;
    std::vector<std::vector<char>> copies;
    for (uint32_t i = 0; i < kernel->described.argc; i++) {
        const char *const from = static_cast<const char *>(p.kernelParams[i]);
        copies.emplace_back(from, from + kernel->described.arg_sizes[i]);
    }
    const Configuration shape = {{p.gridDim.x, p.gridDim.y, p.gridDim.z},
                                 {p.blockDim.x, p.blockDim.y, p.blockDim.z},
                                 p.sharedMemBytes,
                                 nullptr,
                                 0,
                                 "a graph's node",
                                 false};
    work = [function = p.func, shape, copies]() mutable {
        std::vector<void *> args;
        for (std::vector<char> &copy : copies)
            args.push_back(copy.data());
        args.push_back(nullptr);
        return launch_at(function, shape, args.data());
    };
    return true;
}

}  // namespace

namespace simt {

cudaError_t submit(cudaStream_t stream, cudaGraphNodeType type, Work work) {
    if (runtime().fault != cudaSuccess)
        return runtime().fault;
    if (!is_known(stream))
        return cudaErrorInvalidResourceHandle;
    if (is_captured(stream)) {
        auto &nodes = stream->captured->nodes;
        std::vector<cudaGraphNode_t> after;
        if (!nodes.empty())
            after.push_back(nodes.back().get());
        nodes.emplace_back(new CUgraphNode_st{type, std::move(work), after});
        return cudaSuccess;
    }
    const auto waits = [](cudaStream_t other) {
        return other->captured && (other->flags & cudaStreamNonBlocking) == 0;
    };
    if (is_default(stream) && std::any_of(streams().begin(), streams().end(), waits))
        return cudaErrorStreamCaptureImplicit;
    return work();
}

}  // namespace simt

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    const Lock lock(runtime().mutex);
    if (!stream || flags > cudaStreamNonBlocking)
        return fail(cudaErrorInvalidValue);
    *stream = new CUstream_st{flags, std::max(-5, std::min(priority, 0)), nullptr, false};
    streams().push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Lock lock(runtime().mutex);
    if (is_default(stream) || !is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    streams().erase(std::find(streams().begin(), streams().end(), stream));
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return cudaStreamSynchronize(stream);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const Lock lock(runtime().mutex);
    if (!is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    return is_captured(stream) ? fail(cudaErrorStreamCaptureUnsupported) : faulted();
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned *flags) {
    const Lock lock(runtime().mutex);
    if (!is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    *flags = is_default(stream) ? unsigned(cudaStreamDefault) : stream->flags;
    return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    const Lock lock(runtime().mutex);
    if (!is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    *priority = is_default(stream) ? 0 : stream->priority;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const Lock lock(runtime().mutex);
    if (!event || !is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    // What it waits for is captured, so what follows is, too.
    if (event->captured && !is_default(stream) && !stream->captured)
        stream->captured = event->captured;
    return cudaSuccess;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *data,
                                  unsigned) {
    const Lock lock(runtime().mutex);
    return fail(submit(stream, cudaGraphNodeTypeHost, [=] {
        function(stream, cudaSuccess, data);
        return cudaSuccess;
    }));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    const Lock lock(runtime().mutex);
    return fail(submit(stream, cudaGraphNodeTypeHost, [=] {
        function(data);
        return cudaSuccess;
    }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    if (!event)
        return fail(cudaErrorInvalidValue);
    *event = new CUevent_st{flags, false, 0, nullptr};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!event)
        return fail(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Lock lock(runtime().mutex);
    if (const cudaError_t error = faulted())
        return error;
    if (!event || !is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    event->captured = is_captured(stream) ? stream->captured : nullptr;
    event->recorded = true;
    event->time = runtime().program.clock();
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    return cudaEventSynchronize(event);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const Lock lock(runtime().mutex);
    if (!event)
        return fail(cudaErrorInvalidResourceHandle);
    return event->captured ? fail(cudaErrorCapturedEvent) : faulted();
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    const Lock lock(runtime().mutex);
    if (const cudaError_t error = faulted())
        return error;
    for (const cudaEvent_t event : {from, to})
        if (!event || !event->recorded || (event->flags & cudaEventDisableTiming) != 0)
            return fail(cudaErrorInvalidResourceHandle);
    *milliseconds = float((to->time - from->time) * 1e3);
    runtime().program.timed();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const Lock lock(runtime().mutex);
    if (is_default(stream))
        return fail(cudaErrorStreamCaptureUnsupported);
    if (!is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    if (stream->captured)
        return fail(cudaErrorIllegalState);
    stream->captured = std::make_shared<CUgraph_st>();
    stream->begun_here = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const Lock lock(runtime().mutex);
    if (!is_known(stream) || !is_captured(stream))
        return fail(cudaErrorIllegalState);
    if (!stream->begun_here)
        return fail(cudaErrorStreamCaptureUnmatched);
    const std::shared_ptr<CUgraph_st> captured = stream->captured;
    for (const cudaStream_t other : streams())
        if (other->captured == captured)
            other->captured = nullptr, other->begun_here = false;
    *graph = new CUgraph_st{std::move(captured->nodes)};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    const Lock lock(runtime().mutex);
    if (!is_known(stream))
        return fail(cudaErrorInvalidResourceHandle);
    *status = is_captured(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t *graph, unsigned) {
    *graph = new CUgraph_st;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    if (!graph)
        return fail(cudaErrorInvalidValue);
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphClone(cudaGraph_t *clone, cudaGraph_t graph) {
    if (!clone || !graph)
        return fail(cudaErrorInvalidValue);
    std::map<cudaGraphNode_t, cudaGraphNode_t> copies;
    *clone = new CUgraph_st;
    for (const auto &node : graph->nodes) {
        (*clone)->nodes.emplace_back(new CUgraphNode_st(*node));
        copies[node.get()] = (*clone)->nodes.back().get();
    }
    for (const auto &node : (*clone)->nodes)
        for (cudaGraphNode_t &after : node->after)
            after = copies[after];
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    if (!graph || !count)
        return fail(cudaErrorInvalidValue);
    for (size_t i = 0; nodes && i < *count; i++)
        nodes[i] = i < graph->nodes.size() ? graph->nodes[i].get() : nullptr;
    *count = nodes ? std::min(*count, graph->nodes.size()) : graph->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType *type) {
    if (!node || !type)
        return fail(cudaErrorInvalidValue);
    *type = node->type;
    return cudaSuccess;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                   const cudaGraphNode_t *after, size_t count,
                                   const cudaKernelNodeParams *params) {
    const Lock lock(runtime().mutex);
    Work work;
    if (!params || !launch(*params, work))
        return fail(cudaErrorInvalidDeviceFunction);
    return add(node, graph, after, count, cudaGraphNodeTypeKernel, work);
}

cudaError_t cudaGraphAddMemcpyNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                   const cudaGraphNode_t *after, size_t count,
                                   const cudaMemcpy3DParms *params) {
    if (!params || params->srcArray || params->dstArray)
        return fail(cudaErrorNotSupported);
    return add(node, graph, after, count, cudaGraphNodeTypeMemcpy,
               [p = *params] { return cudaMemcpy3D(&p); });
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t *node, cudaGraph_t graph,
                                     const cudaGraphNode_t *after, size_t count, void *to,
                                     const void *from, size_t size, cudaMemcpyKind kind) {
    return add(node, graph, after, count, cudaGraphNodeTypeMemcpy,
               [=] { return copy(to, size, from, size, size, 1, kind); });
}

cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                   const cudaGraphNode_t *after, size_t count,
                                   const cudaMemsetParams *params) {
    if (!params || (params->elementSize != 1 && params->elementSize != 2 && params->elementSize != 4))
        return fail(cudaErrorInvalidValue);
    return add(node, graph, after, count, cudaGraphNodeTypeMemset, [p = *params] {
        return fill(p.dst, p.pitch, p.value, p.elementSize, p.width, p.height);
    });
}

cudaError_t cudaGraphAddHostNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                 const cudaGraphNode_t *after, size_t count,
                                 const cudaHostNodeParams *params) {
    if (!params)
        return fail(cudaErrorInvalidValue);
    return add(node, graph, after, count, cudaGraphNodeTypeHost, [p = *params] {
        p.fn(p.userData);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                  const cudaGraphNode_t *after, size_t count) {
    return add(node, graph, after, count, cudaGraphNodeTypeEmpty, [] { return cudaSuccess; });
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                       const cudaGraphNode_t *after, size_t count,
                                       cudaGraph_t child) {
    const auto exec = std::make_shared<CUgraphExec_st>();
    if (!child || !instantiate(*exec, *child))
        return fail(cudaErrorInvalidValue);
    return add(node, graph, after, count, cudaGraphNodeTypeGraph, [=] { return run(*exec); });
}

cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t *from,
                                     const cudaGraphNode_t *to, size_t count) {
    if (!graph || (count > 0 && (!from || !to)))
        return fail(cudaErrorInvalidValue);
    for (size_t i = 0; i < count; i++)
        to[i]->after.push_back(from[i]);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long) {
    if (!exec || !graph)
        return fail(cudaErrorInvalidValue);
    std::unique_ptr<CUgraphExec_st> made(new CUgraphExec_st);
    if (!instantiate(*made, *graph))
        return fail(cudaErrorInvalidValue);
    *exec = made.release();
    return cudaSuccess;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams *params) {
    const Lock lock(runtime().mutex);
    const auto is_it = [=](const auto &pair) { return pair.first == node; };
    if (!exec || !params)
        return fail(cudaErrorInvalidValue);
    const auto found = std::find_if(exec->nodes.begin(), exec->nodes.end(), is_it);
    if (found == exec->nodes.end() || !launch(*params, found->second.work))
        return fail(cudaErrorInvalidValue);
    return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *result) {
    CUgraphExec_st made;
    if (!exec || !graph || !result || !instantiate(made, *graph))
        return fail(cudaErrorInvalidValue);
    const auto same = [](const auto &a, const auto &b) { return a.second.type == b.second.type; };
    *result = {cudaGraphExecUpdateSuccess, nullptr, nullptr};
    if (!std::equal(made.nodes.begin(), made.nodes.end(), exec->nodes.begin(), exec->nodes.end(),
                    same)) {
        result->result = cudaGraphExecUpdateErrorTopologyChanged;
        return fail(cudaErrorGraphExecUpdateFailure);
    }
    // Later updates name the nodes that the first graph had.
    for (size_t i = 0; i < made.nodes.size(); i++)
        exec->nodes[i].second = made.nodes[i].second;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    if (!exec)
        return fail(cudaErrorInvalidValue);
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    const Lock lock(runtime().mutex);
    if (!exec)
        return fail(cudaErrorInvalidValue);
    // A copy, as it may be destroyed before a graph that it is part of.
    return fail(submit(stream, cudaGraphNodeTypeGraph, [exec = *exec] { return run(exec); }));
}

}  // extern "C"

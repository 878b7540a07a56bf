"""What `synchronize` and `data_parallel` put into a graph, and what they refuse. How it trains: tests/distributed."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp import distributed
from support.models import FORWARD, TRAINING, op_types, parse
from support.ops import session
from support.training import MODELS

RESNET = MODELS / "resnet_digits" / "training_model.onnx"
BATCH_NORMS = 15
NATIVE = pytest.mark.native


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def collectives(model, kinds=("AllGather", "AllReduce", "AllReduceBucket")):
    return [node for node in model.graph.node if node.domain == "onnx_cbp" and node.op_type in kinds]


def by_output(model):
    return {name: node for node in model.graph.node for name in node.output}


def test_a_synchronized_batch_norm_has_two_collectives():
    model = parse(TRAINING)
    model.graph.node[0].name = "layer/bn"
    before = model.SerializeToString(deterministic=True)
    rewritten = onnx_cbp.rewrite(model, synchronize=True)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(rewritten, full_check=True)
    gather, reduce = collectives(rewritten)
    assert (gather.op_type, reduce.op_type) == ("AllGather", "AllReduce")
    assert attributes(gather) == {"group": b"world", "layer": b"layer/bn"}
    assert attributes(reduce) == {"group": b"world", "layer": b"layer/bn", "reduction": b"sum"}
    assert rewritten.graph.output == model.graph.output
    assert onnx_cbp.rewrite(rewritten, synchronize=True) == rewritten


def test_the_reduced_sums_go_into_the_input_gradient_only():
    rewritten = onnx_cbp.rewrite(parse(TRAINING), synchronize=True)
    made = by_output(rewritten)
    (backprop,) = (n for n in rewritten.graph.node if n.op_type == "ChannelBackprop")
    assert {made[name].op_type for name in backprop.input[5:7]} == {"AllReduce"}
    assert made[backprop.input[7]].op_type == "ChannelStatsMerge"
    assert made["gamma_grad"].op_type == made["beta_grad"].op_type == "ChannelBackpropStats"
    (merge,) = (n for n in rewritten.graph.node if n.op_type == "ChannelStatsMerge")
    readers = Counter(n.op_type for n in rewritten.graph.node if merge.output[0] in n.input)
    assert readers == {"ChannelNormalize": 1, "RunningStats": 1, "ChannelBackpropStats": 1, "ChannelBackprop": 1}


def test_a_statistic_that_passes_through_a_cast_is_still_synchronized():
    text = TRAINING.replace("float[N, 3, H, W] y_grad)", "float[N, 3, H, W] y_grad)").replace(
        "(y_grad, x, gamma, saved_mean, saved_inv_std)", "(y_grad, x, gamma, same_mean, saved_inv_std)"
    )
    text = text.replace("    x_grad,", "    same_mean = Identity (saved_mean)\n    x_grad,")
    assert [n.op_type for n in collectives(onnx_cbp.rewrite(parse(text), synchronize=True))] == [
        "AllGather",
        "AllReduce",
    ]


def test_a_forward_graph_alone():
    rewritten = onnx_cbp.rewrite(parse(FORWARD), synchronize="size:2")
    onnx.checker.check_model(rewritten, full_check=True)
    (gather,) = collectives(rewritten)
    assert attributes(gather)["group"] == b"size:2"


def test_what_was_rewritten_in_steps_is_not_silently_left():
    in_steps = onnx_cbp.rewrite(parse(TRAINING), one_pass=False)
    for done in (in_steps, onnx_cbp.rewrite(parse(TRAINING))):
        with pytest.raises(onnx_cbp.OnnxCbpError, match="was rewritten without it: start from the original model"):
            onnx_cbp.rewrite(done, synchronize=True)
        assert onnx_cbp.rewrite(done, synchronize=False) == done
    synchronized = onnx_cbp.rewrite(parse(TRAINING), synchronize=True)
    with pytest.raises(onnx_cbp.OnnxCbpError, match="was rewritten for group 'world', not 'size:2'"):
        onnx_cbp.rewrite(synchronized, synchronize="size:2")


def test_chosen_layers():
    rewritten = onnx_cbp.rewrite(RESNET, synchronize={"*/blocks.5/bn1/*": "size:2", "*/blocks.5/*": "world"})
    found = {attributes(n)["layer"]: attributes(n)["group"] for n in collectives(rewritten)}
    prefix = b"/blocks/blocks.5/bn%d/BatchNormalization_BatchNormInternal"
    assert found == {prefix % 1: b"size:2", prefix % 2: b"world"}
    types = Counter(op_types(rewritten))
    assert types["BatchNormTrainUpdate"] + types["BatchNormReluTrainUpdate"] == BATCH_NORMS - 2
    assert types["AllGather"] == types["AllReduce"] == types["ChannelBackprop"] == 2
    assert onnx_cbp.rewrite(rewritten, synchronize={"*/blocks.5/bn2/*": "world"}) == rewritten
    for others in (True, {"/blocks/blocks.0/bn1/BatchNormalization_BatchNormInternal": "world"}):
        with pytest.raises(onnx_cbp.OnnxCbpError, match="was rewritten without it"):
            onnx_cbp.rewrite(rewritten, synchronize=others)


@pytest.mark.parametrize(
    ("switch", "reason"),
    [
        ("size:", "needs a number of replicas"),
        ("size:0", "needs a number of replicas"),
        ({"bn9*": "world"}, "'bn9*' chooses no batch norm"),
        ({"*": 4}, "use True, a group"),
        ({"": "world"}, "use True, a group"),
    ],
)
def test_wrong_switches(switch, reason):
    with pytest.raises(onnx_cbp.OnnxCbpError) as caught:
        onnx_cbp.rewrite(parse(TRAINING), synchronize=switch)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gradient_without_its_batch_norm_is_refused():
    model = parse("""
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, L] x, float[3] gamma, float[3] mean, float[3] inv_std, float[N, 3, L] y_grad)
    => (float[N, 3, L] x_grad, float[3] gamma_grad, float[3] beta_grad)
{
    x_grad, gamma_grad, beta_grad = com.microsoft.BatchNormalizationGrad (y_grad, x, gamma, mean, inv_std)
}""")
    with pytest.raises(onnx_cbp.OnnxCbpError, match="'mean' is not made by a batch norm of this graph"):
        onnx_cbp.rewrite(model, synchronize=True)
    assert onnx_cbp.rewrite(model)


def test_a_batch_norm_that_cannot_be_rewritten_is_refused_and_a_frozen_one_is_not():
    text = FORWARD.replace('"" : 17', '"" : 8').replace("training_mode: int = 1", "spatial: int = 0")
    text = text.replace("y, new_mean, new_var =", "y, new_mean, new_var, saved_mean, saved_var =")
    with pytest.raises(onnx_cbp.OnnxCbpError, match="cannot be synchronized: spatial = 0"):
        onnx_cbp.rewrite(parse(text), synchronize=True)
    model = parse(TRAINING)
    model.graph.node[0].attribute[2].i = 0
    del model.graph.node[1]
    del model.graph.output[1:]
    assert not collectives(onnx_cbp.rewrite(model, synchronize=True))


def test_nothing_to_synchronize(caplog):
    model = parse('<ir_version: 8, opset_import: ["" : 17]> agraph (float[N] x) => (float[N] y) { y = Relu (x) }')
    assert onnx_cbp.rewrite(model, synchronize=True) == model
    assert "the model has no batch norm that trains" in caplog.text


@pytest.mark.parametrize("switch", ["synchronize", "data_parallel"])
def test_not_together_with_portable(switch):
    with pytest.raises(onnx_cbp.OnnxCbpError, match=f"portable and {switch} exclude each other"):
        onnx_cbp.rewrite(RESNET, portable=True, **{switch: True})


def test_a_synchronized_model_cannot_be_made_portable_afterwards():
    with pytest.raises(onnx_cbp.OnnxCbpError, match="without 'synchronize'"):
        onnx_cbp.rewrite(onnx_cbp.rewrite(parse(TRAINING), synchronize=True), portable=True)


def test_inspect_tells_what_is_synchronized():
    findings = []
    rewritten = onnx_cbp.rewrite(parse(TRAINING), synchronize="size:2", report=findings.extend)
    assert "over all replicas of group 'size:2'" in findings[0].explanation
    assert "synchronized in group 'size:2'" in onnx_cbp.inspect(rewritten)[0].explanation
    assert "synchronized" not in onnx_cbp.inspect(onnx_cbp.rewrite(parse(TRAINING)))[0].explanation


@NATIVE
@pytest.mark.training
def test_alone_a_synchronized_graph_gives_what_it_gives_in_steps():
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(2.0, 1.5, (5, 3, 4, 6)) for name in ("x", "y_grad")}
    feeds |= {name: rng.uniform(0.5, 2.0, 3) for name in ("gamma", "beta", "running_mean", "running_var")}
    results = []
    for options in ({"one_pass": False}, {"synchronize": True}):
        fed = {name: value.astype(np.float32) for name, value in feeds.items()}
        results.append(session(onnx_cbp.rewrite(parse(TRAINING), **options), "native").run(None, fed))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def gradients(model):
    """What each accumulator adds, by the name of the buffer."""
    return {
        n.input[0]: n.input[1] for n in model.graph.node if n.op_type == "InPlaceAccumulatorV2" and "grad" in n.input[0]
    }


def test_every_gradient_is_reduced_in_few_messages():
    original = onnx.load(RESNET)
    rewritten = onnx_cbp.rewrite(original, data_parallel=True)
    onnx.checker.check_model(rewritten, full_check=True)
    assert onnx_cbp.rewrite(rewritten, data_parallel=True) == rewritten
    assert [v.name for v in rewritten.graph.output] == [v.name for v in original.graph.output]
    made, theirs, ours = by_output(rewritten), gradients(original), gradients(rewritten)
    assert theirs.keys() == ours.keys()
    assert len(ours) == 47
    for buffer, value in ours.items():
        reshape = made[value]
        split = made[reshape.input[0]]
        bucket = made[split.input[0]]
        assert bucket.op_type == "AllReduceBucket"
        place = list(split.output).index(reshape.input[0])
        packed = made[bucket.input[0]].input[place]
        assert made[packed].input[0] == theirs[buffer], "it gets back its own gradient, summed"
    assert len(collectives(rewritten)) == 2  # the loss, and all gradients


@pytest.mark.parametrize(("megabytes", "messages"), [(25, 1), (0.05, 5), (1e-6, 47)])
def test_a_message_has_at_most_as_many_bytes_as_it_may(megabytes, messages):
    rewritten = onnx_cbp.rewrite(RESNET, data_parallel=True, bucket_cap_mb=megabytes)
    buckets = [n for n in collectives(rewritten) if attributes(n)["layer"].startswith(b"gradients")]
    shapes = {v.name: v.type.tensor_type.shape for v in rewritten.graph.value_info}
    sizes = [4 * shapes[n.output[0]].dim[0].dim_value for n in buckets]
    assert len(buckets) == messages
    total = sum(
        np.prod([d.dim_value for d in v.type.tensor_type.shape.dim]) * 4
        for v in rewritten.graph.input
        if v.name.endswith("buffer")
    )
    assert sum(sizes) == total
    if megabytes > 1e-3:
        assert max(sizes) <= megabytes * 2**20
    assert len({attributes(n)["layer"] for n in buckets}) == len(buckets)


@pytest.mark.parametrize("size", [0, -1, "much"])
def test_wrong_sizes_of_a_message(size):
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"bucket_cap_mb is .*; it must be"):
        onnx_cbp.rewrite(RESNET, data_parallel=True, bucket_cap_mb=size)


def test_other_readers_of_a_gradient_still_get_this_replicas_own():
    model = onnx.load(RESNET)
    value = next(iter(gradients(model).values()))
    model.graph.output.append(onnx.helper.make_tensor_value_info(value, 1, None))
    rewritten = onnx_cbp.rewrite(model, data_parallel=True)
    assert by_output(rewritten)[value].op_type == by_output(model)[value].op_type


def test_gradients_of_a_16_bit_type_travel_as_floats():
    model = onnx.load(RESNET)
    buffer = next(v for v in model.graph.input if v.name.endswith("classifier.bias_grad.accumulation.buffer"))
    buffer.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    (accumulator,) = (n for n in model.graph.node if buffer.name in n.input)
    cast = onnx.helper.make_node("Cast", [accumulator.input[1]], ["half"], to=onnx.TensorProto.FLOAT16)
    accumulator.input[1] = "half"
    model.graph.node.insert(list(model.graph.node).index(accumulator), cast)
    rewritten = onnx_cbp.rewrite(model, data_parallel=True)
    onnx.checker.check_model(rewritten, full_check=True)
    assert len(collectives(rewritten)) == 2
    made = by_output(rewritten)
    back = made[gradients(rewritten)[buffer.name]]
    assert (back.op_type, attributes(back)["to"]) == ("Cast", onnx.TensorProto.FLOAT16)


@pytest.mark.parametrize("model", [FORWARD, TRAINING])
def test_a_model_that_is_no_training_artifact_is_refused(model):
    with pytest.raises(onnx_cbp.OnnxCbpError, match="data_parallel needs ONNX Runtime training artifacts"):
        onnx_cbp.rewrite(parse(model), data_parallel=True)


def test_gradients_of_which_some_are_reduced_already_are_refused():
    model = onnx_cbp.rewrite(RESNET, data_parallel=True)
    accumulator = next(n for n in model.graph.node if n.op_type == "InPlaceAccumulatorV2" and "grad" in n.input[0])
    accumulator.input[1] = gradients(onnx.load(RESNET))[accumulator.input[0]]
    with pytest.raises(onnx_cbp.OnnxCbpError, match="is reduced over the replicas already, and others are not"):
        onnx_cbp.rewrite(model, data_parallel=True)


def test_a_loss_that_is_not_the_first_output_is_refused():
    model = onnx.load(RESNET)
    first, second = model.graph.output[0].name, model.graph.output[1].name
    model.graph.output[0].name, model.graph.output[1].name = second, first
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"node '/classifier/Gemm' \(Gemm\) makes the loss"):
        onnx_cbp.rewrite(model, data_parallel=True)


def test_a_second_loss_beside_the_first_is_refused():
    model = onnx.load(RESNET)
    (gradient,) = (n for n in model.graph.node if n.op_type == "SoftmaxCrossEntropyLossGrad")
    gradient.input[1] = "logits"
    with pytest.raises(onnx_cbp.OnnxCbpError, match="no node can be told to be its gradient"):
        onnx_cbp.rewrite(model, data_parallel=True)


@pytest.mark.parametrize("ignored", [-100, 2**32 + 1])
def test_an_ignored_label_is_compared_as_what_it_is(ignored):
    """Labels of int32 cannot be as large; taken for one of them it would be label 1."""
    model = onnx.load(RESNET)
    (loss,) = (n for n in model.graph.node if n.op_type == "SoftmaxCrossEntropyLoss")
    loss.attribute.append(onnx.helper.make_attribute("ignore_index", ignored))
    (labels,) = (value for value in model.graph.input if value.name == loss.input[1])
    labels.type.tensor_type.elem_type = onnx.TensorProto.INT32
    rewritten = onnx_cbp.rewrite(model, data_parallel=True)
    onnx.checker.check_model(rewritten, full_check=True)
    (equal,) = (n for n in rewritten.graph.node if n.op_type == "Equal" and n.output[0].endswith("is_ignored"))
    made = by_output(rewritten)
    assert attributes(made[equal.input[0]])["to"] == onnx.TensorProto.INT64
    (value,) = made[equal.input[1]].attribute
    assert onnx.numpy_helper.to_array(value.t) == ignored


def test_long_names_fit_into_what_replicas_tell_each_other():
    model = onnx.load(RESNET)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name.endswith("weight_grad"):
                    names[i] = "module/" * 60 + name
    found = [attributes(n)["layer"] for n in collectives(onnx_cbp.rewrite(model, data_parallel=True))]
    assert max(map(len, found)) < 400
    assert any(b"..." in layer and layer.endswith(b"stem.weight_grad'") for layer in found)


def test_what_is_sent_is_told_in_the_log(caplog):
    with caplog.at_level(logging.INFO, "onnx_cbp"):
        onnx_cbp.rewrite(RESNET, data_parallel=True)
    assert "one message a step of 2 values: onnx::SoftmaxCrossEntropyLoss::4" in caplog.text
    assert "gradients 1 of 1, 'classifier.bias_grad' to 'stem.weight_grad'" in caplog.text


@NATIVE
@pytest.mark.training
def test_graphs_that_differ_end_in_an_error_and_do_not_hang():
    def replicate():
        cap = 25 if distributed.rank() else 0.1
        model = onnx_cbp.rewrite(RESNET, synchronize=True, data_parallel=True, bucket_cap_mb=cap)
        made = session(model, "native")
        feeds = {
            v.name: np.zeros([d if isinstance(d, int) else 2 for d in v.shape], np.float32) for v in made.get_inputs()
        }
        feeds |= {"labels": np.zeros(2, np.int64), "lazy_reset_grad": np.array([True])}
        with pytest.raises(Exception, match="the replicas run different collectives"):
            made.run(None, feeds)

    assert distributed.run_replicas(replicate, 2, timeout=30) == [None, None]


def test_a_gradient_that_is_made_of_an_accumulator_of_its_message_is_refused():
    model = onnx.load(RESNET)
    made = {name: (place, node) for place, node in enumerate(model.graph.node) for name in node.output}
    sums = [node for node in model.graph.node if node.op_type == "InPlaceAccumulatorV2"]
    sums.sort(key=lambda node: made[node.input[1]][0])
    made[sums[-1].input[1]][1].input[0] = sums[0].output[0]
    with pytest.raises(onnx_cbp.OnnxCbpError, match="data_parallel: a gradient is made of another one's acc") as error:
        onnx_cbp.rewrite(model, data_parallel=True)
    assert "\n" not in str(error.value)

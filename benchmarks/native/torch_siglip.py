"""SigLIP in plain torch.nn, as somebody without Keras would write it: the baseline of the step-time benchmark.

Parameters carry the names of `diptych.models.SigLIP`'s weights ("image/encoder/block_00/mlp/in_kernel"), with "." for
"/".
"""

import torch
import torch.nn.functional as F
from torch import nn

LAYER_NORM_EPSILON = 1e-6


class Attention(nn.Module):
    def __init__(self, width, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(query, key, value)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width, mlp_dim):
        super().__init__()
        self.hidden = nn.Linear(width, mlp_dim)
        self.out = nn.Linear(mlp_dim, width)

    def forward(self, x):
        return self.out(F.gelu(self.hidden(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width, mlp_dim, num_heads):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.attention = Attention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.mlp = Mlp(width, mlp_dim)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class MapHead(nn.Module):
    def __init__(self, width, mlp_dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.mlp = Mlp(width, mlp_dim)

    def forward(self, tokens):
        batch, length, width = tokens.shape
        query = self.query(self.probe).view(1, 1, self.num_heads, -1).transpose(1, 2).expand(batch, -1, -1, -1)
        key, value = self.key_value(tokens).view(batch, length, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        x = self.out(F.scaled_dot_product_attention(query, key, value).reshape(batch, width))
        return x + self.mlp(self.norm(x))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        for index in range(config.depth):
            self.add_module(f"block_{index:02d}", Block(config.width, config.mlp_dim, config.num_heads))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


class ImageTower(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Parameter(torch.empty(config.num_patches, config.width))
        self.encoder = Encoder(config)
        self.map_head = MapHead(config.width, config.mlp_dim, config.num_heads)

    def forward(self, images):
        x = self.patch_embedding(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return self.map_head(self.encoder(x + self.position_embedding))


class TextTower(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.encoder = Encoder(config)
        self.projection = nn.Linear(config.width, config.embed_dim)

    def forward(self, token_ids):
        x = self.encoder(self.token_embedding(token_ids) + self.position_embedding)
        return self.projection(x[:, -1])


class SigLIP(nn.Module):
    """SigLIP's own arrangement: MAP pooling of images, the last position of texts, a projection behind the text
    tower.
    """

    def __init__(self, config):
        super().__init__()
        self.image, self.text = ImageTower(config.vision), TextTower(config.text)
        self.log_logit_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = nn.Parameter(torch.empty(()))

    def forward(self, images, token_ids):
        return F.normalize(self.image(images), dim=-1), F.normalize(self.text(token_ids), dim=-1)

    def loss(self, images, token_ids):
        """The pairwise sigmoid loss: the sum over all pairs divided by the number of images."""
        image, text = self(images, token_ids)
        logits = self.log_logit_scale.exp() * image @ text.T + self.logit_bias
        return (F.softplus(logits).sum() - logits.diagonal().sum()) / len(image)

    @torch.no_grad()
    def load(self, weights):
        """Takes over `{Keras path: NumPy array}`; every weight must be used and every parameter set."""
        parameters = dict(self.named_parameters())
        if set(map(torch_name, weights)) != set(parameters):
            raise ValueError(f"Names differ: {sorted(set(map(torch_name, weights)) ^ set(parameters))}")
        for path, array in weights.items():
            name, value = torch_name(path), torch.from_numpy(array)
            if name == "image.patch_embedding.weight":
                value = value.permute(3, 2, 0, 1)
            elif name.endswith(".weight") and path.endswith("kernel"):
                value = value.T
            parameters[name].copy_(value)


def torch_name(path: str) -> str:
    """ "image/encoder/block_00/mlp/in_kernel" -> "image.encoder.block_00.mlp.hidden.weight"."""
    name = path.removeprefix("pair_logits/").replace("mlp/in_", "mlp/hidden_").replace("/", ".")
    name = name.replace("position_embedding.embedding", "position_embedding")
    name = name.replace("token_embedding.embedding", "token_embedding.weight").replace("norm.scale", "norm.weight")
    for part in ("qkv", "hidden", "out", "query", "key_value"):
        name = name.replace(f".{part}_kernel", f".{part}.weight").replace(f".{part}_bias", f".{part}.bias")
    return name.replace(".kernel", ".weight")

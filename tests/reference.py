"""Slow, literal references: what the layers must compute, written as nested loops over the definition."""

import math

import numpy as np


def turn_kernel_se2cnn(kernel, turns, rotations, mask=True):
    """The rotation operator of SE2CNN, loop for loop: target (i, j) reads the source with bilinear weights."""
    k = len(kernel)
    c, t = k // 2, 2 * math.pi * turns / rotations
    out = np.zeros_like(kernel)
    for i in range(k):
        for j in range(k):
            if mask and (i - c) ** 2 + (j - c) ** 2 > (c + 0.5) ** 2:
                continue
            si = math.cos(t) * (i - c) + math.sin(t) * (j - c) + c
            sj = -math.sin(t) * (i - c) + math.cos(t) * (j - c) + c
            for ii in (math.floor(si), math.floor(si) + 1):
                for jj in (math.floor(sj), math.floor(sj) + 1):
                    if 0 <= ii < k and 0 <= jj < k:
                        out[i, j] += (1 - abs(si - ii)) * (1 - abs(sj - jj)) * kernel[ii, jj]
    return out


def group_convolution(x, weight, group, turn):
    """y[o, g] = sum over i, h, pixels of x[i, h] * (turned by g)(weight[o, i, g^-1 h]); x (I, |G|, H, W), VALID."""
    out_channels, in_channels, order, k, _ = weight.shape
    height, width = x.shape[-2] - k + 1, x.shape[-1] - k + 1
    y = np.zeros((out_channels, order, height, width))
    for o in range(out_channels):
        for g in range(order):
            for i in range(in_channels):
                for h in range(order):
                    kernel = turn(weight[o, i, group.product(group.inverse(g), h)], g)
                    for row in range(height):
                        for column in range(width):
                            y[o, g, row, column] += (x[i, h, row : row + k, column : column + k] * kernel).sum()
    return y

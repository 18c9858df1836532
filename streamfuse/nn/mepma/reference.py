"""How the authors' checkpoint names what `MEPMA` holds, and what it holds besides."""

REFERENCE_NAMES: tuple[tuple[str, str], ...] = (
    (r"^shallow\.layer1\.", "encoder.shallow.stem."),
    (r"^shallow\.layer2\.", "encoder.shallow.residual."),
    (r"^cnn_based\.mobilenetv4_block\.uib_(\d)\.", r"encoder.detail.\1."),
    (r"^transformer_based\.restormer\.restormer\.(\d)\.", r"encoder.context.\1."),
    (r"^feature_concat_ir\.", "encoder.concat_ir."),
    (r"^feature_concat_vi\.", "encoder.concat_vis."),
    (r"^feature_fusion\.", "fusion."),
    (r"^((?:encoder\.concat_(?:ir|vis)|fusion)\.)layer1\.", r"\1mix."),
    (r"^((?:encoder\.concat_(?:ir|vis)|fusion)\.)layer2\.", r"\1reduce."),
    (r"^((?:encoder\.concat_(?:ir|vis)|fusion)\.)layer3\.", r"\1refine."),
    (r"^feature_reconstruction\.final_layers1\.", "reconstruction.residual."),
    (r"^feature_reconstruction\.final_layers2\.", "reconstruction.head."),
    (r"^reconstruction_gradient_ir\.layer\.", "head_ir."),
    (r"^reconstruction_gradient_vi\.layer\.", "head_vis."),
    (r"^deformable_transformation\.deformation\.Multiscale_feature\.layer(\d)\.", r"alignment.pyramid.\1."),
    (r"^deformable_transformation\.deformation\.Decoder\.", "alignment."),
    (r"^alignment\.restormer(\d)(_fus)?\.Conv\.", r"alignment.restormer\1\2.conv."),
    (r"^alignment\.restormer(\d)(_fus)?\.restormer\.0\.", r"alignment.restormer\1\2.block."),
    (r"^alignment\.restormer(\d)_fus\.", r"alignment.scales.\1.merge."),
    (r"^alignment\.restormer(\d)\.", r"alignment.scales.\1.match."),
    (r"^alignment\.mobilenetv4_block(\d)\.LayerNorm\.", r"alignment.scales.\1.refine.norm."),
    (r"^alignment\.mobilenetv4_block(\d)\.mobilenetv4_block\.uib_0\.", r"alignment.scales.\1.refine.uib."),
    (r"^alignment\.mobilenetv4_block(\d)\.ca_layer\.Conv_0\.", r"alignment.scales.\1.refine.gate.1."),
    (r"^alignment\.mobilenetv4_block(\d)\.ca_layer\.Conv_1\.", r"alignment.scales.\1.refine.gate.3."),
    (r"^alignment\.reg_flow(\d)_([aef])\.reg_head\.", r"alignment.scales.\1.head_\2."),
    (r"^alignment\.flow(\d)_([aef])_up\.", r"alignment.descents.\1.up_\2."),
    (r"^alignment\.feature(\d)_up\.", r"alignment.descents.\1.up_features."),
    (r"\._start_dw_\.", ".start."),
    (r"\._middle_dw\.", ".middle."),
    (r"\._expand_conv\.", ".expand."),
    (r"\._proj_conv\.", ".project."),
    (r"\.(start|expand|middle|project)\.conv\.", r".\1.0."),
    (r"\.(start|expand|middle|project)\.BatchNorm2d\.", r".\1.1."),
    (r"\.(norm[12])\.body\.", r".\1."),
)
"""Regular expressions and what they become, applied one after the other; names of ours pass unchanged."""

REFERENCE_UNUSED: tuple[str, ...] = (
    r"^deformable_transformation\.deformation\.Decoder\.mobilenetv4_block[1-4]\.conv\.[02]\.(weight|bias)$",
)
"""16 tensors, 1,567,680 values: convolutions that the reference builds and its forward pass never calls."""
